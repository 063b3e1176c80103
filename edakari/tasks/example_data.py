"""Annotated images, such as with boxes, and their batches."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from edakari.core.blank import blank
from edakari.core.protocols import Split
from edakari.core.seeds import derived_seed
from edakari.errors import DataError, UnknownName
from edakari.tasks.loaders import loaded, seeded
from edakari.tasks.order import Order
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources.examples import Chosen, Examples, notes_of
from edakari.tasks.splits import order_of

__all__ = ["ExampleBatches", "ExampleData", "Prepare", "divided_examples"]

Target = dict[str, Any]
Transform = Callable[[Any, Target], tuple[torch.Tensor, Target]]
"""From an image and a target to uint8 or float32 [3, height, width] of the network's size, and a target."""
Prepare = Callable[[Augment], Transform]
"""Makes the transform of an augmentation; "none" is that of evaluation."""
Collate = Callable[[list[Target]], Any]
"""Makes the second entry of a batch of the targets of its images."""


@dc.dataclass(frozen=True, eq=False)
class ExampleData:
    """Annotated images; fulfils `edakari.tasks.base.TaskData`.

    Args:
        settings: settings of the data.
        splits: the images of each split.
        size: height and width of the network's input.
        normalization: mean and standard deviation of each channel, for pixels in 0 to 1.
        prepare: makes the transforms of images and targets.
        collate: makes the second entry of a batch; `list` keeps one target for each image.
        notes: sentences about the data for readers of the results.
        seed: seed of the training's order and augmentation.
        unaugmented: height and width of images without augmentation; None is `size`.
    """

    settings: DataSettings
    splits: Mapping[Split, Examples]
    size: tuple[int, int]
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    prepare: Prepare
    collate: Collate = list
    notes: tuple[str, ...] = ()
    seed: int = 0
    unaugmented: tuple[int, int] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order of the labels."""
        return tuple(self.splits["train"].classes)

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the keypoints; empty if there are none."""
        return tuple(getattr(self.splits["train"], "joints", ()))

    def example(self) -> torch.Tensor:
        """Return float32 zeros [1, channels, height, width]."""
        return blank(1, len(self.normalization[0]), *self.size)

    def source(self, split: Split) -> Examples:
        """Return the images of a split.

        Raises:
            UnknownName: there is no such split.
        """
        if split not in self.splits:
            raise UnknownName("split", split, self.splits)
        return self.splits[split]

    def batches(self, split: Split) -> ExampleBatches:
        """Return the batches of a split: images float32 [N, channels, height, width], and the collated targets.

        "train" is shuffled and augmented differently in each epoch (`set_epoch`). "train" and "val" are divided among
        processes; each process gets all of "calibration".

        Raises:
            UnknownName: there is no such split.
        """
        source = self.source(split)
        order = order_of(self.settings, len(source), split, self.seed)
        augment = self.settings.augment if split == "train" else "none"
        size = self.unaugmented if augment == "none" else None
        return ExampleBatches(self, source, order, self.prepare(augment), size or self.size)


class ExampleBatches:
    """Batches of annotated images that workers read and transform.

    Args:
        data: size, normalisation and collation of the batches.
        source: the images.
        order: order of the images in batches.
        transform: transform of each image and its target.
        size: height and width of the images in a batch.
    """

    def __init__(
        self, data: ExampleData, source: Examples, order: Order, transform: Transform, size: tuple[int, int]
    ) -> None:
        self.data, self.source, self.order, self.transform, self.size = data, source, order, transform, size
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return len(self.order) - self.first

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass, which decides order and augmentation."""
        self.epoch = epoch

    def skip(self, count: int) -> ExampleBatches:
        """Return the batches of the same epoch without the first ones."""
        rest = ExampleBatches(self.data, self.source, self.order, self.transform, self.size)
        rest.epoch, rest.first = self.epoch, self.first + count
        return rest

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        dataset = _Prepared(self.source, self.transform, (self.order.seed, self.epoch), self.size)
        batches = self.order.batches(self.epoch, self.first)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in self.data.normalization)
        for images, targets in loaded(dataset, batches, self.data.settings.workers, _stacked):
            pixels = images.float() / 255 if images.dtype == torch.uint8 else images
            yield (pixels - mean) / std, self.data.collate(targets)


class _Prepared(Dataset[Any]):
    def __init__(self, source: Examples, transform: Transform, seeds: tuple[int, int], size: tuple[int, int]) -> None:
        self.source, self.transform, self.seeds, self.size = source, transform, seeds, size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        image, target = self.source[index]
        with seeded((*self.seeds, index)):
            pixels, target = self.transform(image, target)
        if tuple(pixels.shape[-2:]) != self.size:
            raise DataError(f"image {index} became {list(pixels.shape)}, but the network's input is {list(self.size)}")
        return pixels, target


def _stacked(items: list[tuple[torch.Tensor, Target]]) -> tuple[torch.Tensor, list[Target]]:
    return torch.stack([image for image, _ in items]), [target for _, target in items]


def divided_examples(
    settings: DataSettings, train: Examples, val: Examples | None
) -> tuple[dict[Split, Examples], tuple[str, ...]]:
    """Divide annotated images into splits, and return notes about them for reports.

    Args:
        settings: settings with the sizes of the splits.
        train: training images as read.
        val: validation images as read; None takes a part of the training images.

    Raises:
        DataError: a split would have no images.
    """
    notes = notes_of(train)
    shuffled = np.random.default_rng(settings.seed).permutation(len(train))
    if settings.max_images is not None and settings.max_images < len(train):
        shuffled = shuffled[: settings.max_images]
        notes = (*notes, f"trained on {len(shuffled)} images only (data.max_images)")
    if val is None:
        count = max(1, round(len(shuffled) * settings.val_share))
        val, shuffled = Chosen(train, np.sort(shuffled[:count])), shuffled[count:]
        notes = (*notes, f"validated on {count} images cut from the training data; there is no val split")
    else:
        notes = tuple(dict.fromkeys((*notes, *notes_of(val))))
    drawn = np.random.default_rng(derived_seed(settings.seed, "calibration")).permutation(shuffled)
    chosen = drawn[: settings.calibration_size]
    if settings.hold_out:
        shuffled = drawn[settings.calibration_size :]
        notes = (*notes, f"{len(chosen)} training images are held out (data.hold_out)")
    splits: dict[Split, Examples] = {
        "train": Chosen(train, np.sort(shuffled)),
        "calibration": Chosen(train, np.sort(chosen)),
        "val": val,
    }
    empty = [name for name, examples in splits.items() if not len(examples)]
    if empty:
        raise DataError(
            f"{len(train)} images leave none for {', '.join(empty)}; lower data.val_share or data.calibration_size"
        )
    return splits, notes
