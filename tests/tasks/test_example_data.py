"""Batches of annotated images: order, epochs, splits, and what a transform must give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edakari.errors import DataError, UnknownName
from edakari.tasks import DataSettings
from edakari.tasks.example_data import ExampleData, divided_examples

SIZE = (4, 6)


class Numbered:
    """Images of another size each, whose pixels and boxes say their number."""

    classes = ("a", "b")
    notes = ("drawn by a test",)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        return torch.full((3, 4 + index % 3, 6), index, dtype=torch.uint8), {"image_id": index}


def prepare(augment: str) -> Any:
    def transform(image: Any, target: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        moved = int(torch.randint(100, ())) if augment != "none" else 0
        return image[:, :4, :], {**target, "moved": moved}

    return transform


def data(settings: DataSettings, train: int = 11, val: int | None = 5) -> ExampleData:
    splits, notes = divided_examples(settings, Numbered(train), None if val is None else Numbered(val))
    return ExampleData(settings, splits, SIZE, ((0.5,) * 3, (0.25,) * 3), prepare, notes=notes)


def shown(batches: Any) -> list[tuple[int, int]]:
    found = []
    for images, targets in batches:
        assert images.shape[1:] == (3, *SIZE)
        for image, target in zip(images, targets, strict=True):
            torch.testing.assert_close(image, torch.full_like(image, (target["image_id"] / 255 - 0.5) / 0.25))
            found.append((target["image_id"], target["moved"]))
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_depend_on_seed_and_number_only(workers: int) -> None:
    batches = data(DataSettings(batch_size=4, workers=workers)).batches("train")
    first = shown(batches)
    assert sorted(number for number, _ in first) == list(range(11))
    assert shown(batches) == first
    batches.set_epoch(1)
    second = shown(batches)
    assert [each for each, _ in second] != [each for each, _ in first]
    assert {moved for _, moved in second} != {moved for _, moved in first}
    assert shown(batches.skip(2)) == second[8:]
    assert len(batches.skip(2)) == 1


def test_evaluation_is_neither_shuffled_nor_augmented() -> None:
    given = data(DataSettings(batch_size=4, workers=0))
    assert shown(given.batches("val")) == [(number, 0) for number in range(5)]
    assert {moved for _, moved in shown(given.batches("calibration"))} == {0}
    with pytest.raises(UnknownName, match="'test'"):
        given.batches("test")  # type: ignore[arg-type]


def test_splits_have_the_sizes_of_the_settings() -> None:
    settings = DataSettings(batch_size=4, workers=0, val_share=0.2, calibration_size=4, hold_out=True, max_images=20)
    given = data(settings, 30, None)
    numbers = {
        split: {number for number, _ in shown(given.batches(split))} for split in ("train", "calibration", "val")
    }
    assert {split: len(found) for split, found in numbers.items()} == {"train": 12, "calibration": 4, "val": 4}
    assert len(set.union(*numbers.values())) == 20
    assert given.notes[0] == "drawn by a test"
    assert len(given.notes) == 4
    with pytest.raises(DataError, match="3 images leave none for train"):
        data(DataSettings(hold_out=True), 3)


def test_a_transform_of_another_size_is_an_error() -> None:
    given = data(DataSettings(batch_size=4, workers=0))
    wrong = ExampleData(given.settings, given.splits, (5, 6), given.normalization, prepare)
    with pytest.raises(DataError, match=r"image 0 became \[3, 4, 6\], but the network's input is \[5, 6\]"):
        next(iter(wrong.batches("val")))
