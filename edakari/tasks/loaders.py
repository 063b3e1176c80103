"""Batches from arrays or files, whose order and augmentation depend only on the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from edakari.tasks.ahead import ahead, side_stream
from edakari.tasks.draws import draws_of, key_of
from edakari.tasks.image_reader import Decoded, ImageReader, ImageRequest, Reading, images_of
from edakari.tasks.order import FixedBatches, NeighbourOrder, Order
from edakari.tasks.pixels import Pixels
from edakari.tasks.sources import Arrays
from edakari.tasks.workers import Workers

__all__ = ["ArrayBatches", "FileBatches"]

Labelled = tuple[torch.Tensor, ...]
"""Images and labels, and optionally the images' indices."""


class ArrayBatches:
    """Batches (float32 [N, C, H, W], int64 [N]) of images in memory, made by a few tensor operations each.

    Args:
        source: the images.
        order: which make up each batch.
        pixels: how they become the network's input.
        views: number of augmented views, concatenated, with the images' indices as the third entry; 0 gives one view
            without indices.
        device: device that holds a copy of all images and makes the batches' images; None makes them on the CPU. Labels
            and indices are on the CPU in any case.
    """

    def __init__(
        self,
        source: Arrays,
        order: Order | NeighbourOrder | FixedBatches,
        pixels: Pixels,
        views: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.source, self.order, self.pixels, self.views, self.device = source, order, pixels, views, device
        self.epoch = self.first = 0
        self._copied: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.order) - self.first

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is; decides order and augmentation."""
        self.epoch = epoch

    def skip(self, count: int) -> ArrayBatches:
        """The same epoch without its first batches."""
        rest = ArrayBatches(self.source, self.order, self.pixels, self.views, self.device)
        rest.epoch, rest.first, rest._copied = self.epoch, self.first + count, self._copied
        return rest

    def _images(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """The images of a batch, uint8 [N, H, W, C]; the first call copies all of them to the device."""
        if self.device is None:
            return torch.from_numpy(self.source.images[indices])
        if self._copied is None:
            self._copied = torch.tensor(self.source.images, device=self.device)
        return self._copied[torch.from_numpy(indices).to(self.device)]

    def __iter__(self) -> Iterator[Labelled]:
        key, views = key_of(self.order.seed, self.epoch), max(1, self.views)
        for indices in self.order.batches(self.epoch, self.first):
            images = self._images(indices)
            if self.pixels.augments:
                made = [self.pixels(images, draws) for draws in draws_of(key, indices, views)]
            else:
                made = [self.pixels(images)] * views
            yield _labelled(torch.cat(made) if views > 1 else made[0], self.source.labels, indices, self.views)


class FileBatches:
    """Batches (float32 [N, C, H, W], int64 [N]) of images that workers read one by one.

    Args:
        workers: processes that read images.
        reading: split, augmentation and views.
        order: which images make up each batch.
        indexed: whether batches have the images' indices as the third entry.
        device: device to which images are copied as bytes, and on which they are normalised, one batch ahead; None
            takes the CPU. Labels and indices are on the CPU in any case.
    """

    def __init__(
        self,
        workers: Workers[ImageReader],
        reading: Reading,
        order: Order | NeighbourOrder | FixedBatches,
        *,
        indexed: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.workers, self.reading, self.order = workers, reading, order
        self.indexed, self.device = indexed, device
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return len(self.order) - self.first

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is; decides order and augmentation."""
        self.epoch = epoch

    def skip(self, count: int) -> FileBatches:
        """The same epoch without its first batches."""
        rest = FileBatches(self.workers, self.reading, self.order, indexed=self.indexed, device=self.device)
        rest.epoch, rest.first = self.epoch, self.first + count
        return rest

    def __iter__(self) -> Iterator[Labelled]:
        key = key_of(self.order.seed, self.epoch)
        parts = self.order.batches(self.epoch, self.first)
        requests = [ImageRequest(self.reading, key, indices) for indices in parts]
        read = zip(requests, self.workers.batches(requests), strict=True)
        yield from ahead(read, self._made, side_stream(self.device))

    def _made(self, read: tuple[ImageRequest, torch.Tensor | Decoded]) -> Labelled:
        request, found = read
        reader = self.workers.call
        if isinstance(found, torch.Tensor):
            images = self._moved(found)
        else:
            pixels, sizes = found
            images = reader.transformed(images_of(self._moved(pixels), sizes), request)
        labels = reader.sources[self.reading.split].labels
        views = self.reading.views if self.indexed else 0
        return _labelled(reader.pixels.normalized(images), labels, request.indices, views)

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.device is None else tensor.to(self.device, non_blocking=True)


def _labelled(
    images: torch.Tensor, labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], views: int
) -> Labelled:
    own = torch.from_numpy(labels[indices])
    if not views:
        return images, own
    return images, torch.cat([own] * views), torch.from_numpy(indices).repeat(views)
