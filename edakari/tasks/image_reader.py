"""Reading and transforming the images of a batch, in a worker or on a device."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.protocols import Split
from edakari.tasks.draws import draws_of, seeded
from edakari.tasks.pixels import Pixels, unit
from edakari.tasks.settings import Augment
from edakari.tasks.sources import Mapped, Source
from edakari.tasks.transforms import ImageCrop, training_transform

__all__ = ["Decoded", "ImageReader", "ImageRequest", "Reading", "decoded", "images_of"]

Decoded = tuple[torch.Tensor, torch.Tensor]
"""Joined bytes of images of any size; and height, width, channels and bytes per value of each, int64 [N, 4]."""
UNIT = 4
"""Bytes to multiples of which an image is filled up."""


@dc.dataclass(frozen=True)
class Reading:
    """How images are read.

    Args:
        split: split of the images.
        augment: augmentation.
        views: number of augmented views of each image.
        decode_only: whether the transforms are left to a device.
    """

    split: Split
    augment: Augment = "none"
    views: int = 1
    decode_only: bool = False


@dc.dataclass(frozen=True, eq=False)
class ImageRequest:
    """The images of a batch.

    Args:
        reading: how they are read.
        key: key of their random numbers; see `edakari.tasks.draws.key_of`.
        indices: indices in the split, int64 [N].
    """

    reading: Reading
    key: int
    indices: npt.NDArray[np.int64]


@dc.dataclass(frozen=True, eq=False)
class ImageReader:
    """Reads and transforms the images of requests.

    Args:
        sources: images of each split.
        pixels: size and normalisation of the network's input, and the shift of small images.
        crop: random crops and interpolation.
    """

    sources: Mapping[Split, Source]
    pixels: Pixels
    crop: ImageCrop

    def __call__(self, request: ImageRequest) -> torch.Tensor | Decoded:
        """Read the images of a request, and transform them unless a device does.

        Returns:
            See `transformed`, or decoded images.

        Raises:
            DataError: an image cannot be read; the message names it.
        """
        source = self.sources[request.reading.split]
        images = []
        for index in request.indices.tolist():
            # a data set of the user's own may draw random numbers
            own = isinstance(source, Mapped)
            with seeded((request.key, index)) if own else contextlib.nullcontext():
                images.append(source.pixels(index))
        return decoded(images) if request.reading.decode_only else self.transformed(images, request)

    def transformed(self, images: Sequence[torch.Tensor], request: ImageRequest) -> torch.Tensor:
        """Transform the images of a request on their device.

        Args:
            images: images as read, uint8 [1 or 3, H, W] or pixels from 0 to 1.
            request: the request, which has their random numbers.

        Returns:
            All first views, then all second ones: [views * N, channels, height, width] as bytes, or float32 from 0 to
            1 if an image has more than 8 bits.
        """
        transform = training_transform(self.pixels, request.reading.augment, self.crop)
        views = draws_of(request.key, request.indices, max(1, request.reading.views))
        made = [transform(image, own) for draws in views for image, own in zip(images, draws, strict=True)]
        if len({each.dtype for each in made}) > 1:
            made = list(map(unit, made))
        return torch.stack(made)


def decoded(images: Sequence[torch.Tensor]) -> Decoded:
    """Join images of any size, so that they are one copy to a device and not many.

    Args:
        images: images as read, uint8 or float32 [C, H, W].
    """
    # in the order that decoders write: the channels last
    rows = [each.permute(1, 2, 0) for each in images]
    parts: list[torch.Tensor] = []
    for each in rows:
        values = each.reshape(-1).view(torch.uint8)
        # float32 begins at a multiple of its size
        parts += [values, values.new_zeros(-len(values) % UNIT)]
    return torch.cat(parts), torch.tensor([(*each.shape, each.element_size()) for each in rows])


def images_of(joined: torch.Tensor, sizes: torch.Tensor) -> list[torch.Tensor]:
    """Return the images [C, H, W] that `decoded` has joined, as views of their bytes.

    Args:
        joined: the bytes, on any device.
        sizes: height, width, channels and bytes per value, int64 [N, 4], on the CPU.
    """
    images, start = [], 0
    for *size, each in sizes.tolist():
        end = start + math.prod(size) * each
        values = joined[start:end]
        images.append((values if each == 1 else values.view(torch.float32)).view(*size).permute(2, 0, 1))
        start = end + -end % UNIT
    return images
