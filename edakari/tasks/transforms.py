"""Transforms of pixels to the size of the network's input, by torchvision v2 or timm; batches are normalised later."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch

from edakari.core.optional import needs
from edakari.errors import UnknownName
from edakari.tasks.loaders import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "OWN_CROP",
    "ImageCrop",
    "Interpolation",
    "evaluation_transform",
    "torchvision_transforms",
    "training_transform",
]

Transform = Callable[[torch.Tensor], torch.Tensor]
"""From uint8 [C, H, W], or pixels from 0 to 1, to the same of another size."""
Interpolation = Literal["bilinear", "bicubic"]
CROP = 0.875
SMALL = 64
JITTER = 0.2


@dc.dataclass(frozen=True)
class ImageCrop:
    """How images of classes are cropped and resized.

    Args:
        scale: smallest and largest fraction of the area in a random crop; None is 0.35 to 1, or timm's own.
        ratio: smallest and largest aspect of a random crop, width by height.
        interpolation: interpolation in training and evaluation; None is "bilinear", or timm's own.
    """

    scale: tuple[float, ...] | None = None
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    interpolation: Interpolation | None = None

    @property
    def resizing(self) -> dict[str, Any]:
        """Arguments of torchvision's transforms that resize."""
        mode = torchvision_transforms().InterpolationMode(self.interpolation or "bilinear")
        return {"interpolation": mode, "antialias": True}


OWN_CROP = ImageCrop()
"""Crops where settings say nothing."""


def evaluation_transform(pixels: Pixels, crop: ImageCrop = OWN_CROP) -> Transform:
    """Make the evaluation transform: resize and centre crop; sizes up to 64 pixels are only resized.

    Args:
        pixels: size and normalisation of the input.
        crop: interpolation.
    """
    v2 = torchvision_transforms()
    if max(pixels.size) <= SMALL:
        return _composed(pixels, v2.Resize(pixels.size, **crop.resizing))
    return _composed(pixels, _around(pixels.size, crop), v2.CenterCrop(pixels.size))


def training_transform(pixels: Pixels, augment: str, crop: ImageCrop = OWN_CROP) -> Transform:
    """Make the transform of the training split.

    Args:
        pixels: size and normalisation of the input, and the shift of small images.
        augment: "none", "light", "jitter" or "timm".
        crop: random crops of images above 64 pixels, and interpolation.

    Raises:
        UnknownName: there is no such augmentation.
    """
    if augment == "none":
        return evaluation_transform(pixels, crop)
    v2 = torchvision_transforms()
    if augment == "timm":
        with needs("train", "the augmentation timm"):
            from timm.data.transforms_factory import create_transform
        make: Any = create_transform
        size = (pixels.channels, *pixels.size)
        randaugment = "rand-m9-mstd0.5-inc1" if pixels.channels == 3 else None
        own: dict[str, Any] = {"scale": crop.scale, "interpolation": crop.interpolation}
        own = {name: value for name, value in own.items() if value is not None}
        # what it mixes in has the mean colour; it gives bytes if it does not normalise
        own |= {"is_training": True, "ratio": crop.ratio, "mean": pixels.mean, "std": pixels.std, "normalize": False}
        transform = _guarded(make(size, auto_augment=randaugment, **own))
        colour = v2.Grayscale(1) if pixels.channels == 1 else v2.RGB()
        composed: Transform = v2.Compose([_picture, colour, transform])
        return composed
    if augment not in ("light", "jitter"):
        raise UnknownName("augmentation", augment, ("none", "light", "jitter", "timm"))
    colours = [v2.ColorJitter(JITTER, JITTER, JITTER)] if augment == "jitter" else []
    if max(pixels.size) <= SMALL:
        resize = v2.Resize(pixels.size, **crop.resizing)
        shift = v2.RandomCrop(
            pixels.size, padding=pixels.pad or None, padding_mode="reflect" if colours else "constant"
        )
        return _composed(pixels, resize, *colours, shift, v2.RandomHorizontalFlip())
    resized = v2.RandomResizedCrop(pixels.size, crop.scale or (0.35, 1.0), crop.ratio, **crop.resizing)
    return _composed(pixels, resized, *colours, v2.RandomHorizontalFlip())


def _around(size: tuple[int, int], crop: ImageCrop) -> Any:
    """The resize before a centre crop: it keeps the aspect, and leaves a border around the crop."""
    v2, (height, width) = torchvision_transforms(), (round(side / CROP) for side in size)
    if height == width:
        return v2.Resize(height, **crop.resizing)

    def resize(image: Any) -> Any:
        high, wide = v2.functional.get_size(image)
        scale = max(height / high, width / wide)
        return v2.functional.resize(image, [round(high * scale), round(wide * scale)], **crop.resizing)

    return resize


def torchvision_transforms() -> Any:
    """Return torchvision's transforms v2, which take seconds to import and have no types."""
    with needs("train", "resizing and augmenting images"):
        from torchvision.transforms import v2

    return v2


def _composed(pixels: Pixels, *steps: Any) -> Transform:
    composed: Transform = torchvision_transforms().Compose([_Colour(pixels.channels), *steps])
    return composed


@dc.dataclass(frozen=True)
class _Colour:
    """Repeats grey, or turns colours into grey as Pillow does."""

    channels: int

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) == 1:
            return pixels.expand(self.channels, -1, -1)
        if self.channels > 1:
            return pixels
        red, green, blue = pixels.int()
        luma: torch.Tensor = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
        return luma.to(torch.uint8)[None]


def _picture(pixels: torch.Tensor) -> Image:
    """Convert pixels to an image of 8 bits, on which timm's transforms work."""
    with needs("train", "the augmentation timm"):
        from PIL import Image

    if pixels.dtype != torch.uint8:
        pixels = (pixels * 255).round().to(torch.uint8)
    values = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(values[:, :, 0] if len(pixels) == 1 else values)


def _guarded(transform: Any) -> Any:
    """The transform with posterisation that keeps a bit: timm asks for none at its strongest, which Pillow refuses."""
    from timm.data import auto_augment

    for step in transform.transforms:
        for op in getattr(step, "ops", ()):
            if op.aug_fn is auto_augment.posterize:
                op.aug_fn = _posterized
    return transform


def _posterized(image: Image, bits: int, **settings: Any) -> Image:
    from PIL import ImageOps

    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))
