"""Transforms of pixels to the size of the network's input, by torchvision v2 or timm; batches are normalised later."""

from __future__ import annotations

import dataclasses as dc
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from edakari.core.optional import needs
from edakari.errors import UnknownName
from edakari.tasks.draws import Draws, seeded
from edakari.tasks.pixels import Pixels
from edakari.tasks.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "OWN_CROP",
    "Fixed",
    "ImageCrop",
    "Interpolation",
    "Moved",
    "OfTimm",
    "Transform",
    "crop_window",
    "evaluation_steps",
    "evaluation_transform",
    "timm_transform",
    "torchvision_transforms",
    "training_transform",
]

Transform = Callable[[torch.Tensor, Draws], torch.Tensor]
"""From uint8 [C, H, W], or pixels from 0 to 1, and random numbers [DRAWS], to the same of another size."""
Interpolation = Literal["bilinear", "bicubic"]
CROP = 0.875
SMALL = 64
JITTER = 0.2
ORDERS = tuple(itertools.permutations(range(3)))
"""Orders of changes of brightness, contrast and saturation."""
TRIES = 10
"""Crops that are tried until one fits into the image."""
FIRST_TRY = 7
"""Index of the first random number for these; those before: mirror, top, left, three colours and their order."""


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
        return Fixed(_Colour(pixels.channels), (v2.Resize(pixels.size, **crop.resizing),))
    return Fixed(_Colour(pixels.channels), (_around(pixels.size, crop), v2.CenterCrop(pixels.size)))


def evaluation_steps(size: tuple[int, int], crop: ImageCrop = OWN_CROP) -> Preprocessing:
    """Describe what `evaluation_transform` does.

    Args:
        size: height and width of the network's input.
        crop: interpolation.
    """
    mode = crop.interpolation or "bilinear"
    if max(size) <= SMALL:
        return Preprocessing("stretch", size, size, interpolation=mode)
    high, wide = (round(side / CROP) for side in size)
    return Preprocessing("shorter_side" if high == wide else "cover", (high, wide), size, interpolation=mode)


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
    if augment == "timm":
        return OfTimm(timm_transform(pixels, crop))
    if augment not in ("light", "jitter"):
        raise UnknownName("augmentation", augment, ("none", "light", "jitter", "timm"))
    jitter = JITTER if augment == "jitter" else 0.0
    return Moved(_Colour(pixels.channels), pixels.size, crop, pixels.pad, jitter)


@dc.dataclass(frozen=True)
class Fixed:
    """Transform that draws nothing.

    Args:
        colour: makes grey or colours.
        steps: functions of uint8 [C, H, W], or pixels from 0 to 1.
    """

    colour: _Colour
    steps: tuple[Callable[[torch.Tensor], torch.Tensor], ...]

    def __call__(self, image: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Transform an image on its device."""
        image = self.colour(image)
        for step in self.steps:
            image = step(image)
        return image


@dc.dataclass(frozen=True)
class OfTimm:
    """Transform of timm, which works on Pillow's images and draws from global generators.

    Args:
        transform: from uint8 [C, H, W], or pixels from 0 to 1, to uint8.
    """

    transform: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, image: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Transform an image on the CPU."""
        with seeded((int(draws[0] * 2**53),)):
            return self.transform(image)


@dc.dataclass(frozen=True)
class Moved:
    """Random resized crop, or a shift of sizes up to 64 pixels; other colours; and mirror.

    It is what torchvision's `RandomResizedCrop`, `RandomCrop`, `ColorJitter` and `RandomHorizontalFlip` do, by their
    own functions; but what they draw from a global generator comes with each image.

    Args:
        colour: makes grey or colours.
        size: height and width of the network's input.
        crop: random crops, and interpolation.
        pad: largest shift of small images, in pixels.
        jitter: largest relative change of brightness, contrast and saturation; above 0, shifts show mirrored borders.
    """

    colour: _Colour
    size: tuple[int, int]
    crop: ImageCrop
    pad: int
    jitter: float

    def __call__(self, image: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Transform an image on its device."""
        functional, image = torchvision_transforms().functional, self.colour(image)
        if max(self.size) > SMALL:
            scale = self.crop.scale or (0.35, 1.0)
            window = crop_window(int(image.shape[-2]), int(image.shape[-1]), scale, self.crop.ratio, draws)
            image = self._coloured(
                functional.resized_crop(image, *window, list(self.size), **self.crop.resizing), draws
            )
        else:
            image = self._coloured(functional.resize(image, list(self.size), **self.crop.resizing), draws)
            top, left = (int(each * (2 * self.pad + 1)) for each in draws[1:3])
            border = "reflect" if self.jitter else "constant"
            padded = functional.pad(image, [self.pad] * 4, padding_mode=border) if self.pad else image
            image = functional.crop(padded, top, left, *self.size)
        mirrored: torch.Tensor = functional.horizontal_flip(image) if draws[0] < 0.5 else image
        return mirrored

    def _coloured(self, image: torch.Tensor, draws: Draws) -> torch.Tensor:
        if not self.jitter:
            return image
        functional = torchvision_transforms().functional
        changes = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        for which in ORDERS[int(draws[6] * len(ORDERS))]:
            image = changes[which](image, 1 + self.jitter * (2 * draws[3 + which] - 1))
        return image


def crop_window(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], draws: Draws
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random crop, as torchvision's `RandomResizedCrop` chooses it.

    Args:
        height: height of the image.
        width: width of the image.
        scale: smallest and largest fraction of the area.
        ratio: smallest and largest aspect, width by height.
        draws: random numbers of the image, [DRAWS].
    """
    low, high = (math.log(each) for each in ratio)
    for area, aspect in draws[FIRST_TRY : FIRST_TRY + 2 * TRIES].reshape(TRIES, 2):
        wanted = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(low + (high - low) * aspect)
        wide, tall = round(math.sqrt(wanted * aspect)), round(math.sqrt(wanted / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(draws[1] * (height - tall + 1)), int(draws[2] * (width - wide + 1)), tall, wide
    # of the whole image, as near to the aspects as it goes
    aspect = min(max(width / height, ratio[0]), ratio[1])
    wide, tall = min(width, round(height * aspect)), min(height, round(width / aspect))
    wide, tall = max(wide, 1), max(tall, 1)
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def timm_transform(pixels: Pixels, crop: ImageCrop = OWN_CROP) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return timm's transform for training, with RandAugment, without normalisation.

    Args:
        pixels: size and normalisation of the input.
        crop: random crops, and interpolation.
    """
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
    v2 = torchvision_transforms()
    colour = v2.Grayscale(1) if pixels.channels == 1 else v2.RGB()
    composed: Callable[[torch.Tensor], torch.Tensor] = v2.Compose([_picture, colour, transform])
    return composed


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
