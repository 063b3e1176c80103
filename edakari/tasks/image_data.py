"""Images with labels of a fixed size, in memory or in files, and their batches."""

from __future__ import annotations

import dataclasses as dc
import functools
import hashlib
from collections.abc import Mapping, Sequence

import torch

from edakari.core.blank import blank
from edakari.core.protocols import Split
from edakari.errors import UnknownName
from edakari.tasks.image_reader import ImageReader, Reading
from edakari.tasks.loaders import ArrayBatches, FileBatches
from edakari.tasks.order import FixedBatches, NeighbourOrder, Order
from edakari.tasks.pixels import Pixels
from edakari.tasks.preprocessing import Preprocessing
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources import Arrays, Labels, Source
from edakari.tasks.splits import augmenting, divided, gpu_of, order_of, pixels_of, training_seed
from edakari.tasks.transforms import OWN_CROP, ImageCrop, evaluation_steps
from edakari.tasks.workers import Workers

__all__ = ["ImageData", "image_data"]


@dc.dataclass(frozen=True, eq=False)
class ImageData:
    """Images with labels; fulfils `edakari.tasks.base.TaskData`.

    Args:
        settings: settings of the data.
        splits: the images of each split.
        pixels: conversion to the network's input, without augmentation.
        notes: sentences about the data for readers of the results.
        seed: seed of the training's order and augmentation.
        crop: random crops and interpolation of images in files.
    """

    settings: DataSettings
    splits: Mapping[Split, Source]
    pixels: Pixels
    notes: tuple[str, ...] = ()
    seed: int = 0
    crop: ImageCrop = OWN_CROP

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order of the labels."""
        return self.splits["train"].classes

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, for pixels in 0 to 1."""
        return self.pixels.mean, self.pixels.std

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the network's input in evaluation; those in memory are stretched where sizes differ."""
        if isinstance(self.splits["val"], Arrays):
            return Preprocessing("stretch", self.pixels.size, self.pixels.size, grey="mean")
        return evaluation_steps(self.pixels.size, self.crop)

    def example(self) -> torch.Tensor:
        """Return float32 zeros [1, channels, height, width]."""
        return blank(1, self.pixels.channels, *self.pixels.size)

    def source(self, split: Split) -> Source:
        """Return the images of a split.

        Raises:
            UnknownName: there is no such split.
        """
        if split not in self.splits:
            raise UnknownName("split", split, self.splits)
        return self.splits[split]

    def augment(self, split: Split) -> Augment:
        """Return the augmentation of a split: that of the settings for "train"."""
        return self.settings.augment if split == "train" else "none"

    def order(self, split: Split) -> Order:
        """Return the order of a split's images in batches."""
        return order_of(self.settings, len(self.source(split).labels), split, self.seed)

    def batches(self, split: Split) -> ArrayBatches | FileBatches:
        """Return the batches (images float32 [N, C, H, W], labels int64) of a split.

        "train" is shuffled and augmented differently in each epoch (`set_epoch`). "train" and "val" are divided among
        processes; each process gets all of "calibration".

        Raises:
            UnknownName: there is no such split.
        """
        return self.batches_in(split, self.order(split))

    def batches_in(self, split: Split, order: Order | NeighbourOrder) -> ArrayBatches | FileBatches:
        """Return the batches of a split in another order.

        Args:
            split: split of the images.
            order: order of its images in batches.

        Raises:
            UnknownName: there is no such split.
        """
        reading = Reading(split, self.augment(split))
        return self._loaded(reading, order, device=None if split == "calibration" else gpu_of(self.settings))

    def batches_at(self, split: Split, parts: Sequence[Labels], augmented: bool) -> ArrayBatches | FileBatches:
        """See `edakari.core.protocols.IndexedTask`."""
        order = FixedBatches(tuple(parts), training_seed(self.seed))
        reading = Reading(split, self.settings.augment if augmented else "none")
        return self._loaded(reading, order, indexed=True)

    def with_indices(self, views: int) -> ArrayBatches | FileBatches:
        """See `edakari.core.protocols.IndexedTask`."""
        reading = Reading("train", self.settings.augment, views)
        return self._loaded(reading, self.order("train"), indexed=True, device=gpu_of(self.settings))

    def digest(self) -> str:
        """See `edakari.core.protocols.IndexedTask`; covers the names of files, not their content."""
        source, pixels = self.source("train"), self.pixels
        digest = hashlib.sha256(repr((pixels.size, pixels.channels, pixels.mean, pixels.std, source.classes)).encode())
        digest.update(source.labels.tobytes())
        digest.update(source.identity())
        return digest.hexdigest()

    @functools.cached_property
    def workers(self) -> Workers[ImageReader]:
        """Processes that read images; the first pass over some starts them, and they stay as long as the data."""
        pixels = dc.replace(self.pixels, pad=self.settings.pad)
        return Workers(
            ImageReader(self.splits, pixels, self.crop), self.settings.workers, pin=gpu_of(self.settings) is not None
        )

    def _loaded(
        self,
        reading: Reading,
        order: Order | NeighbourOrder | FixedBatches,
        *,
        indexed: bool = False,
        device: torch.device | None = None,
    ) -> ArrayBatches | FileBatches:
        source = self.source(reading.split)
        if isinstance(source, Arrays) and reading.augment != "timm":
            pixels = augmenting(self.pixels, self.settings, reading.augment)
            return ArrayBatches(source, order, pixels, reading.views if indexed else 0, device)
        on_device = self.settings.transforms == "device" and device is not None
        reading = dc.replace(reading, decode_only=on_device)
        return FileBatches(self.workers, reading, order, indexed=indexed, device=device)


def image_data(
    settings: DataSettings, train: Source, val: Source | None, notes: tuple[str, ...] = (), seed: int = 0
) -> ImageData:
    """Divide images into splits.

    Args:
        settings: settings of the data.
        train: training images as read.
        val: validation images as read; None takes a part of the training images.
        notes: sentences about the data.
        seed: seed of the training's order and augmentation.

    Raises:
        DataError: a class would be left without training images, or the images do not fit the settings.
    """
    splits, notes = divided(settings, train, val, notes)
    return ImageData(settings, splits, pixels_of(settings, splits["train"]), notes, seed)
