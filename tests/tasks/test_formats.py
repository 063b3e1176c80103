"""What a recipe names is read: formats by name or suffix, several sources together, validation of its own."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import pytest
import torch

from edakari.errors import DataError, EdakariError, UnknownName
from edakari.tasks.sources.examples import Examples, Joined, Wanted
from edakari.tasks.sources.formats import EXAMPLES, PLACES, read_examples
from edakari.tasks.sources.own_data import from_dataset
from tests.tasks.random_objects import assert_read, pictures
from tests.tasks.test_coco import in_order, write


def test_sources_are_joined_and_validation_takes_the_place_of_what_is_beside(tmp_path: Path) -> None:
    parts = [pictures(seed, count=2, prefix=f"{seed} ") for seed in range(4)]
    for number, part in enumerate(parts):
        write(tmp_path / str(number), "train", part)
    write(tmp_path / "0", "val", parts[3])
    first, beside = read_examples(f"coco:{tmp_path / '0'}", Wanted())
    assert beside is not None
    assert_read(first, in_order(parts[0]))
    assert_read(beside, in_order(parts[3]))
    files = [str(tmp_path / str(number) / "annotations" / "instances_train2017.json") for number in range(3)]
    joined, val = read_examples("", Wanted(), train=[files[0], f"coco:{files[1]}"], val=files[2])
    assert isinstance(joined, Joined)
    assert val is not None
    assert_read(joined, in_order([*parts[0], *parts[1]]))
    assert_read(val, in_order(parts[2]))


def test_a_format_that_is_not_known_or_not_said_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="coco"):
        read_examples("coko:somewhere", Wanted())
    with pytest.raises(DataError, match=rf"write FORMAT:{tmp_path} with one of .*coco"):
        read_examples(str(tmp_path), Wanted())


def test_the_page_of_formats_names_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "data-formats.md").read_text(encoding="utf-8")
    assert [name for name in EXAMPLES.names() if f"| `{name}:` |" not in page or f"`{name}:" not in page] == []


def test_every_format_says_what_it_lacks(tmp_path: Path) -> None:
    for name in EXAMPLES.names():
        with pytest.raises(EdakariError, match=r"\S"):
            read_examples(f"{name}:{tmp_path / 'nowhere'}", Wanted("map" if name in MAPS else "boxes"))


@pytest.mark.parametrize("name", PLACES)
def test_a_folder_that_is_not_there_is_told_with_where_it_was_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = "depth" if name == "depth" else "map" if name in MAPS else "boxes"
    with pytest.raises(DataError, match=f"'{name}:DATA': there is no file or folder 'DATA' in .*{tmp_path.name}"):
        read_examples(f"{name}:DATA", Wanted(target))


MAPS = ("cityscapes", "ade20k", "camvid", "folder", "npz")


class Reader:
    """A format of another package."""

    def __call__(self, argument: str, wanted: Wanted, /) -> tuple[Examples, None]:
        return from_dataset(Numbers(int(argument)), f"numbers {argument}", wanted), None


@dc.dataclass
class Numbers:
    """So many images."""

    count: int
    classes: tuple[str, ...] = ("one",)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return torch.full((3, 4, 4), index, dtype=torch.uint8), {"boxes": [[0, 0, 2, 2]], "labels": [0]}


def test_a_format_of_another_package_is_known_by_its_name() -> None:
    registry = EXAMPLES
    registry.add("numbers", reader := Reader().__call__)
    try:
        train, val = read_examples("numbers:5", Wanted())
        assert (len(train), val, train.classes) == (5, None, ("one",))
        assert int(train[3][0].max()) == 3
        assert registry["numbers"] == reader
    finally:
        registry._registered.pop("numbers")
