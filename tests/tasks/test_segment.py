"""A class at every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edakari.errors import DataError, UnknownName
from edakari.tasks import DataSettings, Segmentation, task_from_settings


def maps(count: int = 12, size: int = 8) -> tuple[Any, Any]:
    """Images whose red channel is ten times the class, and the classes."""
    labels = np.random.default_rng(0).integers(0, 3, (count, size, size))
    images = np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images[..., 0] = 10 + 10 * labels
    return images, labels


def npz(path: Path, labels: Any = None, **more: Any) -> str:
    images, own = maps()
    np.savez(path, images=images, labels=own if labels is None else labels, **more)
    return str(path)


def folder(path: Path, mode: str = "L") -> Path:
    for name in ("images", "labels"):
        (path / name).mkdir(parents=True)
    images, labels = maps()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(path / "images" / f"{number}.png")
        Image.fromarray(label.astype(np.uint8)).convert(mode).save(path / "labels" / f"{number}.png")
    return path


def settings(source: object, **more: Any) -> DataSettings:
    return DataSettings(task="segmentation", source=str(source), **more)


class Fixed(nn.Module):
    """Gives the same maps for every batch."""

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> Any:
        return self.logits


def test_figures_by_hand(tmp_path: Path) -> None:
    labels = np.zeros((12, 8, 8), np.int64)
    labels[:, 4:], labels[:, :, 0] = 1, 255
    path = npz(tmp_path / "t.npz", labels)
    task = task_from_settings(settings(path, val=path, batch_size=12))
    said = torch.zeros(12, 2, 8, 8)
    said[:, 1, 2:] = 1.0
    figures = task.evaluate(Fixed(said))
    # of 56 pixels that count 28 are of each class; 14 are said to be 0, rightly, and 42 to be 1
    assert figures["pixel_accuracy"] == pytest.approx(42 / 56)
    assert figures["miou"] == pytest.approx((14 / 28 + 28 / 42) / 2)
    right, wrong = np.log(1 + np.exp(-1)), np.log(1 + np.e)
    assert figures["loss"] == pytest.approx((14 * np.log(2) + 28 * right + 14 * wrong) / 56, rel=1e-5)
    assert float(task.loss(said, next(iter(task.batches("val"))))["cross_entropy"]) == pytest.approx(figures["loss"])


def test_a_batch_in_which_no_pixel_counts_has_no_loss(tmp_path: Path) -> None:
    task = task_from_settings(settings(npz(tmp_path / "t.npz")))
    assert float(task.loss(torch.zeros(2, 3, 8, 8), (None, torch.full((2, 8, 8), 255)))["cross_entropy"]) == 0.0


def test_small_maps_and_mappings_are_brought_to_size(tmp_path: Path) -> None:
    path = npz(tmp_path / "t.npz")
    task = task_from_settings(settings(path, val=path, batch_size=12))
    batch = next(iter(task.batches("val")))
    small = torch.randn(12, 3, 4, 4)
    wanted = nn.functional.interpolate(small, (8, 8), mode="bilinear")
    assert torch.equal(task.outputs(Fixed(small), batch), wanted)
    assert torch.equal(task.outputs(Fixed({"out": small, "aux": small}), batch), wanted)
    with pytest.raises(DataError, match=r"3 classes at every pixel, which are logits \[N, 3, height, width\]"):
        task.outputs(Fixed(torch.zeros(12, 3)), batch)


@pytest.mark.parametrize("augment", ["none", "light", "jitter"])
def test_labels_move_with_their_images(tmp_path: Path, augment: Any) -> None:
    task = task_from_settings(
        settings(npz(tmp_path / "t.npz"), augment=augment, pad=2, mean=(0.0,), std=(1.0,), batch_size=3)
    )
    batches, moved = task.batches("train"), False
    for epoch in range(4):
        batches.set_epoch(epoch)
        for images, labels in batches:
            assert images.shape == (len(labels), 3, 8, 8)
            for image, label in zip(images, labels, strict=True):
                means = [image[0][label == each].mean() for each in range(3)]
                assert means[0] < means[1] < means[2]
                if augment != "jitter":
                    assert torch.equal((image[0] * 255).round().long(), torch.where(label == 255, 0, 10 + 10 * label))
                moved |= bool((label == 255).any())
    assert moved == (augment != "none")
    again = task.batches("train")
    again.set_epoch(1)
    first, second = list(again), list(again.skip(1))
    assert len(second) == len(first) - 1 == len(again) - 1
    assert all(
        torch.equal(a, b) for one, other in zip(first[1:], second, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_folder_gives_what_its_arrays_give(tmp_path: Path, mode: str) -> None:
    task = task_from_settings(settings(folder(tmp_path / "data", mode), val_share=0.25))
    assert isinstance(task, Segmentation)
    images, labels = maps()
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for split in ("train", "val", "calibration"):
        source = task.data.splits[split]
        for image, label in zip(source.images, source.labels, strict=True):
            assert np.array_equal(known[image.tobytes()], label)
    assert len(task.data.splits["val"].labels) == 3


def test_maps_are_resized_without_mixing_classes(tmp_path: Path) -> None:
    labels = np.zeros((12, 8, 8), np.int64)
    labels[:, 4:] = 2
    by_file = task_from_settings(settings(npz(tmp_path / "t.npz", labels), image_size=4))
    found = by_file.data.splits["train"].labels
    assert found.shape[1:] == (4, 4)
    assert found[0].tolist() == [[0] * 4] * 2 + [[2] * 4] * 2
    from_files = task_from_settings(settings(folder(tmp_path / "data"), image_size=16))
    assert from_files.data.splits["train"].images.shape[1:] == (16, 16, 3)
    assert set(np.unique(from_files.data.splits["train"].labels)) == {0, 1, 2}


def test_a_folder_with_its_own_validation_data(tmp_path: Path) -> None:
    folder(tmp_path / "data" / "train")
    folder(tmp_path / "data" / "val")
    task = task_from_settings(settings(tmp_path / "data"))
    assert [len(task.data.splits[split].labels) for split in ("train", "val")] == [12, 12]
    assert task.notes == ()


def test_bad_data_is_told(tmp_path: Path) -> None:
    _, labels = maps()
    cases = {
        "one for each pixel, found int64": labels[:, 0],
        "all pixels are of one class": np.ones_like(labels),
        "labels that all are ignored": np.full_like(labels, 255),
        "labels from -1 to 1": labels - 1,
    }
    for number, (wanted, bad) in enumerate(cases.items()):
        with pytest.raises(DataError, match=wanted):
            task_from_settings(settings(npz(tmp_path / f"{number}.npz", bad)))
    with pytest.raises(DataError, match="labels from 0 to 2, but there are 2 classes"):
        task_from_settings(settings(npz(tmp_path / "n.npz", class_names=np.array(["a", "b"]))))
    with pytest.raises(DataError, match="has no images/"):
        task_from_settings(settings(tmp_path))
    data = folder(tmp_path / "data")
    (data / "labels" / "3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 12 images have no label map.*3\.png"):
        task_from_settings(settings(data))
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(data / "labels" / "3.png")
    with pytest.raises(DataError, match=r"3\.png: it has 8x5 pixels and its image .* 8x8"):
        task_from_settings(settings(data))
    (data / "labels" / "3.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"3\.png cannot be read"):
        task_from_settings(settings(data))
    with pytest.raises(UnknownName, match="miou"):
        task_from_settings(settings(npz(tmp_path / "t.npz"), metric="top1"))
    with pytest.raises(DataError, match="to segmentation"):
        task_from_settings(DataSettings(source=npz(tmp_path / "u.npz")))
