"""Transforms from a PIL image to the network's input, by torchvision v2 or timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from edakari.core.optional import needs
from edakari.errors import UnknownName
from edakari.tasks.loaders import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["evaluation_transform", "torchvision_transforms", "training_transform"]

Transform = Callable[[Any], torch.Tensor]
CROP = 0.875
SMALL = 64
JITTER = 0.2


def evaluation_transform(pixels: Pixels) -> Transform:
    """Make the evaluation transform: resize and centre crop; sizes up to 64 pixels are only resized.

    Args:
        pixels: size and normalisation of the input.
    """
    v2 = torchvision_transforms()
    if max(pixels.size) <= SMALL:
        return _composed(pixels, v2.Resize(pixels.size, antialias=True))
    return _composed(pixels, _around(pixels.size), v2.CenterCrop(pixels.size))


def training_transform(pixels: Pixels, augment: str) -> Transform:
    """Make the transform of the training split.

    Args:
        pixels: size and normalisation of the input, and the shift of small images.
        augment: "none", "light", "jitter" or "timm".

    Raises:
        UnknownName: there is no such augmentation.
    """
    if augment == "none":
        return evaluation_transform(pixels)
    v2 = torchvision_transforms()
    if augment == "timm":
        with needs("train", "the augmentation timm"):
            from timm.data.transforms_factory import create_transform
        from edakari.tasks.images import eight_bits

        make: Any = create_transform
        size = (pixels.channels, *pixels.size)
        randaugment = "rand-m9-mstd0.5-inc1" if pixels.channels == 3 else None
        transform = _guarded(make(size, is_training=True, auto_augment=randaugment, mean=pixels.mean, std=pixels.std))
        # what timm draws from works on 8 bits
        colour = v2.Grayscale(1) if pixels.channels == 1 else v2.RGB()
        composed: Transform = v2.Compose([eight_bits, colour, transform])
        return composed
    if augment not in ("light", "jitter"):
        raise UnknownName("augmentation", augment, ("none", "light", "jitter", "timm"))
    colours = [v2.ColorJitter(JITTER, JITTER, JITTER)] if augment == "jitter" else []
    if max(pixels.size) <= SMALL:
        resize = v2.Resize(pixels.size, antialias=True)
        shift = v2.RandomCrop(
            pixels.size, padding=pixels.pad or None, padding_mode="reflect" if colours else "constant"
        )
        return _composed(pixels, resize, *colours, shift, v2.RandomHorizontalFlip())
    crop = v2.RandomResizedCrop(pixels.size, scale=(0.35, 1.0), antialias=True)
    return _composed(pixels, crop, *colours, v2.RandomHorizontalFlip())


def _around(size: tuple[int, int]) -> Any:
    """The resize before a centre crop: it keeps the aspect, and leaves a border around the crop."""
    v2, (height, width) = torchvision_transforms(), (round(side / CROP) for side in size)
    if height == width:
        return v2.Resize(height, antialias=True)

    def resize(image: Any) -> Any:
        high, wide = v2.functional.get_size(image)
        scale = max(height / high, width / wide)
        return v2.functional.resize(image, [round(high * scale), round(wide * scale)], antialias=True)

    return resize


def torchvision_transforms() -> Any:
    """Return torchvision's transforms v2, which take seconds to import and have no types."""
    with needs("train", "resizing and augmenting images"):
        from torchvision.transforms import v2

    return v2


def _composed(pixels: Pixels, *steps: Any) -> Transform:
    v2 = torchvision_transforms()
    colour = v2.Grayscale(1) if pixels.channels == 1 else v2.RGB()
    numbers = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(pixels.mean, pixels.std))
    composed: Transform = v2.Compose([_deep_as_tensor, colour, *steps, *numbers, v2.ToPureTensor()])
    return composed


def _deep_as_tensor(image: Image) -> Any:
    """Convert grey of more than 8 bits to a tensor from 0 to 1; Pillow has no such colour mode."""
    return torchvision_transforms().functional.to_image(image) if image.mode == "F" else image


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
