"""Random pictures with random objects, which tests write in each format and read back."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from edakari.tasks.sources.examples import Examples


@dc.dataclass(frozen=True)
class Thing:
    """An object: label, corners in whole pixels, keypoints [K, 3]."""

    label: int
    box: tuple[int, int, int, int]
    crowd: bool
    points: npt.NDArray[np.int64]

    @property
    def polygon(self) -> list[float]:
        left, top, right, bottom = map(float, self.box)
        return [left, top, right, top, right, bottom, left, bottom]

    def mask(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """The box filled."""
        pixels = np.zeros((height, width), np.uint8)
        pixels[self.box[1] : self.box[3], self.box[0] : self.box[2]] = 1
        return pixels


@dc.dataclass(frozen=True)
class Picture:
    """An image without losses and its objects."""

    name: str
    pixels: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[:2]  # type: ignore[return-value]

    def save(self, folder: Path) -> None:
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.pixels).save(path)


def pictures(seed: int, count: int = 4, classes: int = 3, joints: int = 4, prefix: str = "") -> list[Picture]:
    """Random pictures of different sizes; the first one has no objects."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        height, width = (int(side) for side in random.integers(12, 24, 2))
        things = tuple(_thing(random, height, width, classes, joints) for _ in range(random.integers(1, 5)))
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found.append(Picture(f"{prefix}image {number}.png", pixels, things if number else ()))
    return found


def _thing(random: np.random.Generator, height: int, width: int, classes: int, joints: int) -> Thing:
    left, top = int(random.integers(0, width - 4)), int(random.integers(0, height - 4))
    right, bottom = int(random.integers(left + 1, width + 1)), int(random.integers(top + 1, height + 1))
    points = np.stack(
        [random.integers(0, width, joints), random.integers(0, height, joints), random.integers(0, 3, joints)], 1
    )
    points[points[:, 2] == 0] = 0
    return Thing(int(random.integers(classes)), (left, top, right, bottom), bool(random.integers(2)), points)


def assert_read(examples: Examples, written: list[Picture], what: str = "boxes", near: float = 0.0) -> None:
    """What was written is what is read, and the target is of the form that the contract demands."""
    assert len(examples) == len(written)
    for index, picture in enumerate(written):
        image, target = examples[index]
        assert torch.equal(image.cpu(), torch.from_numpy(picture.pixels).permute(2, 0, 1)), picture.name
        assert_form(image, target, what)
        things = picture.things
        boxes = torch.tensor([thing.box for thing in things], dtype=torch.float32).reshape(-1, 4)
        assert torch.allclose(target["boxes"].as_subclass(torch.Tensor), boxes, atol=near, rtol=0), picture.name
        assert target["labels"].tolist() == [thing.label for thing in things]
        if what == "masks":
            masks = np.array([thing.mask(*picture.size) for thing in things]).reshape(-1, *picture.size)
            assert np.array_equal(np.asarray(target["masks"]), masks), picture.name
        if what == "keypoints":
            shape = (len(things), target["visible"].shape[1], 3)
            points = torch.from_numpy(np.array([thing.points for thing in things], np.int64).reshape(shape))
            assert torch.allclose(target["keypoints"].as_subclass(torch.Tensor), points[..., :2].float(), atol=near)
            assert torch.equal(target["visible"], points[..., 2])


def assert_form(image: Any, target: dict[str, Any], what: str) -> None:
    """Types, shapes and dtypes are those of the contract."""
    from torchvision import tv_tensors

    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    assert isinstance(target["image_id"], int)
    size = tuple(image.shape[-2:])
    if what == "map":
        assert isinstance(target["map"], tv_tensors.Mask)
        assert (target["map"].dtype, tuple(target["map"].shape)) == (torch.int64, size)
        return
    count = len(target["labels"])
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert (tuple(target["boxes"].shape), target["boxes"].dtype) == ((count, 4), torch.float32)
    assert target["boxes"].format == tv_tensors.BoundingBoxFormat.XYXY
    assert tuple(target["boxes"].canvas_size) == size
    assert target["labels"].dtype == torch.int64
    assert (tuple(target["area"].shape), target["area"].dtype) == ((count,), torch.float32)
    assert (tuple(target["iscrowd"].shape), target["iscrowd"].dtype) == ((count,), torch.bool)
    if what == "masks":
        assert isinstance(target["masks"], tv_tensors.Mask)
        assert (tuple(target["masks"].shape), target["masks"].dtype) == ((count, *size), torch.uint8)
    if what == "keypoints":
        assert isinstance(target["keypoints"], tv_tensors.KeyPoints)
        assert target["keypoints"].dtype == torch.float32
        assert tuple(target["keypoints"].canvas_size) == size
        assert target["visible"].dtype == torch.int64
        assert target["keypoints"].shape == (*target["visible"].shape, 2)
