"""Crops of annotated objects, one for each, from which heatmaps of keypoints are learnt."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.errors import DataError
from edakari.tasks.placing import mirrored_pairs, rows_of
from edakari.tasks.settings import Augment
from edakari.tasks.sources.examples import Examples, notes_of, posed_of
from edakari.tasks.transforms import torchvision_transforms

__all__ = ["UPPER", "Cropping", "PoseChanges", "PoseCrops", "pose_crops"]

MARGIN = 1.25
"""Side of a crop, relative to the object's box."""
HALF_MARGIN = 1.5
"""Side of a crop of half a body, relative to the box of its keypoints."""
ROTATED = 0.6
"""Fraction of the crops that are rotated."""
UPPER: Mapping[int, tuple[int, ...]] = MappingProxyType({17: tuple(range(11))})
"""Keypoints of the upper body, by the number of keypoints: COCO's 17."""
Target = dict[str, Any]


@dc.dataclass(frozen=True, eq=False)
class PoseCrops:
    """Objects with labelled keypoints as examples: the whole image, and a target of one object.

    Args:
        source: images with keypoints.
        places: index of the image and of the object in it, int64 [N, 2].
    """

    source: Examples
    places: npt.NDArray[np.int64]

    @property
    def classes(self) -> tuple[str, ...]:
        """See `edakari.tasks.sources.examples.Examples`."""
        return tuple(self.source.classes)

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the keypoints."""
        return tuple(getattr(self.source, "joints", ()))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the source."""
        return notes_of(self.source)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Any, Target]:
        number, row = (int(each) for each in self.places[index])
        image, target = self.source[number]
        names = ("boxes", "labels", "area", "iscrowd", "keypoints", "visible")
        return image, {"image": number, **{name: rows_of(target[name], slice(row, row + 1)) for name in names}}


def pose_crops(source: Examples) -> PoseCrops:
    """Find the single objects with labelled keypoints.

    Raises:
        DataError: there is none.
    """
    rows = [np.flatnonzero(posed_of(source, number)) for number in range(len(source))]
    places = [(number, row) for number, found in enumerate(rows) for row in found]
    if not places:
        raise DataError(f"none of {len(source)} images has an object with labelled keypoints")
    return PoseCrops(source, np.array(places, np.int64))


@dc.dataclass(frozen=True)
class PoseChanges:
    """Random changes of crops.

    Args:
        scale: largest change of a crop's size, relative to its side.
        shift: largest change of its centre, relative to the side of the box.
        rotation: deviation of the angle in degrees, which is cut off at twice of it; 60 % of the crops are rotated.
        half_body: fraction of the crops of bodies that show one half, where more than half of the keypoints are
            labelled.
        upper: indices of the keypoints of the upper half.
    """

    scale: float = 0.25
    shift: float = 0.1
    rotation: float = 0.0
    half_body: float = 0.0
    upper: tuple[int, ...] = ()


@dc.dataclass(frozen=True)
class Cropping:
    """Makes the transforms of crops; see `edakari.tasks.example_data.Prepare`.

    A crop has the aspect of the network's input and a margin around the object's box. "light" changes its size and
    place at random, and mirrors half of the crops; "jitter" changes colours too.

    Args:
        size: height and width of the network's input.
        flip_pairs: keypoints that change places in a mirrored image.
        changes: random changes.
    """

    size: tuple[int, int]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    changes: PoseChanges = PoseChanges()

    def __call__(self, augment: Augment) -> Cropped:
        """Return the transform of an augmentation."""
        return Cropped(self, augment)


@dc.dataclass(frozen=True)
class Cropped:
    """Transform from an image and one object to a crop of the network's size; see `Cropping`.

    The target gains `original` and `placed`; see `edakari.tasks.placing.Placed`. `placed` leaves rotation out.

    Args:
        cropping: size of the crops.
        augment: augmentation; "none" changes nothing at random.
    """

    cropping: Cropping
    augment: Augment

    def __call__(self, image: Any, target: Target) -> tuple[torch.Tensor, Target]:
        """Transform an image, uint8 [3, H, W], and a target of one object."""
        v2 = torchvision_transforms()
        original = torch.tensor(image.shape[-2:])
        left, top, width, height = self._window(*self._box(target))
        high, wide = self.cropping.size
        angle = self._angle()
        image = _resized(image, (top, left, height, width), [high, wide], angle)
        moved = {
            name: _resized(target[name], (top, left, height, width), [high, wide], angle)
            for name in ("boxes", "keypoints")
        }
        target = {**target, **moved, "original": original}
        scales = wide / width, high / height
        target["placed"] = torch.tensor([*scales, -left * scales[0], -top * scales[1]], dtype=torch.float32)
        if self.augment == "jitter":
            image = v2.RandomPhotometricDistort()(image)
        if self.augment != "none" and torch.rand(()) < 0.5:
            image, points = (
                v2.functional.horizontal_flip(image),
                v2.functional.horizontal_flip(target["keypoints"]),
            )
            target = mirrored_pairs({**target, "keypoints": points}, self.cropping.flip_pairs)
        return torch.as_tensor(image).as_subclass(torch.Tensor), target

    def _box(self, target: Target) -> tuple[torch.Tensor, float]:
        """The box of the object, or of the keypoints of half of it, and the margin of its crop."""
        changes = self.cropping.changes
        seen = target["visible"][0] > 0
        if self.augment != "none" and changes.half_body and 2 * int(seen.sum()) > len(seen):
            upper = torch.zeros(len(seen), dtype=torch.bool)
            upper[list(changes.upper)] = True
            draws = torch.rand(2)
            halves = [part for part in (seen & upper, seen & ~upper) if part.sum() > 2]
            if halves and draws[0] < changes.half_body:
                half = halves[int(draws[1] * len(halves))]
                points = torch.as_tensor(target["keypoints"]).as_subclass(torch.Tensor)[0, half]
                return torch.cat([points.amin(0), points.amax(0)]), HALF_MARGIN
        return torch.as_tensor(target["boxes"]).as_subclass(torch.Tensor)[0], MARGIN

    def _angle(self) -> float:
        deviation = self.cropping.changes.rotation
        if self.augment == "none" or not deviation or float(torch.rand(())) >= ROTATED:
            return 0.0
        return max(-2.0, min(2.0, float(torch.randn(())))) * deviation

    def _window(self, box: torch.Tensor, margin: float) -> tuple[int, int, int, int]:
        """Left, top, width and height of the crop in whole pixels; it may reach beyond the image."""
        high, wide = self.cropping.size
        centre, sides = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=1)
        height = float(max(sides[1], sides[0] * high / wide)) * margin
        if self.augment != "none":
            height *= 1 + self.cropping.changes.scale * (2 * float(torch.rand(())) - 1)
            centre = centre + self.cropping.changes.shift * sides * (2 * torch.rand(2) - 1)
        width = height * wide / high
        left, top = (float(each) for each in centre - torch.tensor([width, height]) / 2)
        return round(left), round(top), max(1, round(width)), max(1, round(height))


def _resized(given: Any, window: tuple[int, int, int, int], size: list[int], angle: float) -> Any:
    """Crop an image, boxes or keypoints, rotated about the middle of the window (top, left, height, width)."""
    functional = torchvision_transforms().functional
    if angle:
        # a square around the window, so that what turns into it is there
        top, left, height, width = window
        side = math.ceil(math.hypot(height, width))
        down, right = (side - height) // 2, (side - width) // 2
        square = functional.crop(given, top - down, left - right, side, side)
        middle = [right + width / 2, down + height / 2]
        turned = {"interpolation": functional.InterpolationMode.BILINEAR} if _is_image(given) else {}
        given, window = functional.rotate(square, angle, center=middle, **turned), (down, right, height, width)
    resizing = {"antialias": True} if _is_image(given) else {}
    return functional.resized_crop(given, *window, size, **resizing)


def _is_image(given: Any) -> bool:
    from torchvision import tv_tensors

    return isinstance(given, tv_tensors.Image)
