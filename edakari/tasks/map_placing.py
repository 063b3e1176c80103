"""Images with a value at every pixel, at the network's size: resizing, padding and random changes of both together.

All geometry is torchvision's (transforms v2 on tv_tensors).
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Any, Literal

import torch

from edakari.tasks.placing import GREY, Resize, inner_size
from edakari.tasks.preprocessing import Preprocessing
from edakari.tasks.settings import Augment
from edakari.tasks.transforms import JITTER, SMALL, torchvision_transforms

__all__ = ["MapPlacing", "Training"]

Target = dict[str, Any]
TRIES = 10
"""Crops that are tried until no class takes too much of one."""


@dc.dataclass(frozen=True)
class Training:
    """Random changes of images with maps.

    Args:
        zooms: smallest and largest random factor of the size.
        even: whether factors are drawn uniformly, or so are their logarithms.
        max_class: largest fraction of one class in a crop, of those pixels that count.
        colours: what "jitter" does: torchvision's `ColorJitter`, or `RandomPhotometricDistort` (Liu et al., 2016).
    """

    zooms: tuple[float, ...] = (0.5, 2.0)
    even: bool = False
    max_class: float = 1.0
    colours: Literal["jitter", "distort"] = "jitter"


@dc.dataclass(frozen=True)
class MapPlacing:
    """Makes the transforms of images with maps; see `edakari.tasks.example_data.Prepare`.

    "light" mirrors half of the images. It shifts those of up to 64 pixels by up to `pad`, and zooms others by a random
    factor before a random crop. "jitter" changes brightness, contrast and saturation too.

    Args:
        size: height and width of the network's input.
        entry: name of the map in targets: [H, W] of any dtype; "" where there is none.
        outside: value of the map outside of the image.
        resize: "stretch", or "letterbox", which keeps the aspect.
        channels: channels of the network's input; 1 takes the mean of colours.
        pad: largest shift of small images, in pixels.
        training: random changes.
        base: size of images before zoom and crop, and without augmentation; None is `size`.
    """

    size: tuple[int, int]
    entry: str
    outside: float
    resize: Resize = "stretch"
    channels: int = 3
    pad: int = 4
    training: Training = Training()
    base: tuple[int, int] | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """What happens to images in evaluation."""
        size = self.base or self.size
        return Preprocessing(self.resize, size, size, fill=GREY if self.resize == "letterbox" else 0, grey="mean")

    def __call__(self, augment: Augment) -> PlacedMap:
        """Return the transform of an augmentation."""
        return PlacedMap(self, augment)


@dc.dataclass(frozen=True)
class PlacedMap:
    """Transform from an image of any size and its map to the network's size.

    The target gains `zoom`, the random factor by which the image is larger than in evaluation.

    Args:
        placing: size and kind of the resizing.
        augment: augmentation; "none" changes nothing at random.
    """

    placing: MapPlacing
    augment: Augment

    def __call__(self, image: Any, target: Target) -> tuple[torch.Tensor, Target]:
        """Transform an image, uint8 [3, H, W], and its target."""
        zoom, entry, v2 = self._zoom(), self.placing.entry, torchvision_transforms()
        base = self.placing.base or self.placing.size
        fitting = inner_size(tuple(image.shape[-2:]), base, self.placing.resize)
        inner = [max(1, round(side * zoom)) for side in fitting]
        image = v2.functional.resize(image, inner, antialias=True)
        both = (image, resized_map(target[entry], inner)) if entry else (image,)
        if self.augment == "jitter":
            distorts = self.placing.training.colours == "distort"
            colours = v2.RandomPhotometricDistort() if distorts else v2.ColorJitter(JITTER, JITTER, JITTER)
            both = (colours(image), *both[1:])
        if self.augment != "none":
            both = v2.RandomHorizontalFlip()(*self._cropped(both))
        elif tuple(inner) != base:
            both = self._bordered(both, inner, base)
        # torchvision gives a single tensor back for a single one
        image, *maps = both if isinstance(both, tuple | list) else (both,)
        placed = {entry: torch.as_tensor(maps[0]).as_subclass(torch.Tensor)} if maps else {}
        return self._coloured(image), {**target, **placed, "zoom": zoom}

    def _zoom(self) -> float:
        if self.augment == "none" or max(self.placing.size) <= SMALL:
            return 1.0
        (low, high), drawn = self.placing.training.zooms, float(torch.rand(()))
        if self.placing.training.even:
            return low + (high - low) * drawn
        return low * math.exp(math.log(high / low) * drawn)

    def _cropped(self, both: tuple[Any, ...]) -> tuple[Any, ...]:
        pad = self.placing.pad if max(self.placing.size) <= SMALL else 0
        crop = torchvision_transforms().RandomCrop(
            self.placing.size, padding=pad or None, pad_if_needed=True, fill=self._fill(), padding_mode="constant"
        )
        found: Any = ()
        for _ in range(TRIES):
            found = crop(*both)
            found = found if isinstance(found, tuple) else (found,)
            if len(found) == 1 or self._mixed(found[1]):
                break
        return tuple(found)

    def _mixed(self, labels: Any) -> bool:
        """Whether no class takes too much of a crop."""
        largest = self.placing.training.max_class
        if largest == 1:
            return True
        values = torch.as_tensor(labels).as_subclass(torch.Tensor)
        counts = torch.bincount(values[values != self.placing.outside].flatten().long())
        return len(counts) > 0 and bool(counts.max() < largest * counts.sum())

    def _bordered(self, both: tuple[Any, ...], inner: list[int], base: tuple[int, int]) -> Any:
        high, wide = base
        top, left = (high - inner[0]) // 2, (wide - inner[1]) // 2
        border = [left, top, wide - inner[1] - left, high - inner[0] - top]
        return torchvision_transforms().Pad(border, fill=self._fill())(*both)

    def _fill(self) -> dict[Any, float]:
        """Fill of images, black as in classification unless the aspect is kept, and of maps."""
        from torchvision import tv_tensors

        grey = GREY if self.placing.resize == "letterbox" else 0
        return {tv_tensors.Image: grey, tv_tensors.Mask: self.placing.outside, "others": 0}

    def _coloured(self, image: Any) -> torch.Tensor:
        pixels = torch.as_tensor(image).as_subclass(torch.Tensor)
        if self.placing.channels == pixels.shape[0]:
            return pixels
        return pixels.float().mean(0, keepdim=True).expand(self.placing.channels, -1, -1) / 255


def resized_map(values: Any, size: list[int]) -> Any:
    """Return a map at another size, each pixel that of the nearest place.

    Torchvision's own resizing of masks takes the corner instead of the middle of a pixel, which would move a map
    against its image.

    Args:
        values: the map, [H, W].
        size: new height and width.
    """
    v2 = torchvision_transforms()
    from torchvision import tv_tensors

    plain = torch.as_tensor(values).as_subclass(torch.Tensor)
    exact = v2.InterpolationMode.NEAREST_EXACT
    return tv_tensors.Mask(v2.functional.resize(plain[None], size, interpolation=exact)[0])
