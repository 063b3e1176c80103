"""Crops of annotated objects, one for each, from which heatmaps of keypoints are learnt."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.errors import DataError
from edakari.tasks.placing import mirrored_pairs, rows_of
from edakari.tasks.settings import Augment
from edakari.tasks.sources.examples import Examples, notes_of, posed_of
from edakari.tasks.transforms import torchvision_transforms

__all__ = ["Cropping", "PoseCrops", "pose_crops"]

MARGIN = 1.25
"""Side of a crop, relative to the object's box."""
SCALE, SHIFT = 0.25, 0.1
"""Largest random change of a crop's size, and of its centre, relative to its side."""
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
class Cropping:
    """Makes the transforms of crops; see `edakari.tasks.example_data.Prepare`.

    A crop has the aspect of the network's input and a margin around the object's box. "light" changes its size and
    place at random, and mirrors half of the crops; "jitter" changes colours too.

    Args:
        size: height and width of the network's input.
        flip_pairs: keypoints that change places in a mirrored image.
    """

    size: tuple[int, int]
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __call__(self, augment: Augment) -> Cropped:
        """Return the transform of an augmentation."""
        return Cropped(self, augment)


@dc.dataclass(frozen=True)
class Cropped:
    """Transform from an image and one object to a crop of the network's size; see `Cropping`.

    The target gains `original` and `placed`; see `edakari.tasks.placing.Placed`.

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
        left, top, width, height = self._window(torch.as_tensor(target["boxes"])[0])
        high, wide = self.cropping.size
        window = top, left, height, width, [high, wide]
        image = v2.functional.resized_crop(image, *window, antialias=True)
        moved = {name: v2.functional.resized_crop(target[name], *window) for name in ("boxes", "keypoints")}
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

    def _window(self, box: torch.Tensor) -> tuple[int, int, int, int]:
        """Left, top, width and height of the crop in whole pixels; it may reach beyond the image."""
        high, wide = self.cropping.size
        centre, sides = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=1)
        height = float(max(sides[1], sides[0] * high / wide)) * MARGIN
        if self.augment != "none":
            height *= 1 + SCALE * (2 * float(torch.rand(())) - 1)
            centre = centre + SHIFT * sides * (2 * torch.rand(2) - 1)
        width = height * wide / high
        left, top = (float(each) for each in centre - torch.tensor([width, height]) / 2)
        return round(left), round(top), max(1, round(width)), max(1, round(height))
