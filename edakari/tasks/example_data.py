"""Annotated images, such as with boxes, and their batches."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.blank import blank
from edakari.core.protocols import Split
from edakari.core.seeds import derived_seed
from edakari.errors import DataError, UnknownName
from edakari.tasks.ahead import ahead, side_stream
from edakari.tasks.draws import seeded
from edakari.tasks.order import Order
from edakari.tasks.pixels import Pixels
from edakari.tasks.preprocessing import Preprocessing
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources.examples import Chosen, Examples, notes_of
from edakari.tasks.splits import gpu_of, order_of
from edakari.tasks.workers import Workers

__all__ = ["ExampleBatches", "ExampleData", "ExampleReader", "ExampleRequest", "Prepare", "divided_examples"]

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

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images become the network's input in evaluation; None where it takes more than an image to tell."""
        found = getattr(self.prepare, "preprocessing", None)
        return found if isinstance(found, Preprocessing) else None

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
        order = order_of(self.settings, len(self.source(split)), split, self.seed)
        return ExampleBatches(self, split, order, None if split == "calibration" else gpu_of(self.settings))

    @property
    def pixels(self) -> Pixels:
        """Size and normalisation of the network's input."""
        return Pixels(self.size, len(self.normalization[0]), *self.normalization)

    @functools.cached_property
    def workers(self) -> Workers[ExampleReader]:
        """Processes that read images; the first pass over some starts them, and they stay as long as the data."""
        reader = ExampleReader(self.splits, self.prepare, self.size, self.unaugmented or self.size)
        return Workers(reader, self.settings.workers, pin=gpu_of(self.settings) is not None)


class ExampleBatches:
    """Batches of annotated images that workers read and transform.

    Args:
        data: sources, normalisation, collation and workers.
        split: split of the images.
        order: order of the images in batches.
        device: device to which images are copied as bytes, and on which they are normalised, one batch ahead; None
            takes the CPU. Targets are on the CPU in any case.
    """

    def __init__(self, data: ExampleData, split: Split, order: Order, device: torch.device | None = None) -> None:
        self.data, self.split, self.order, self.device = data, split, order, device
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return len(self.order) - self.first

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass, which decides order and augmentation."""
        self.epoch = epoch

    def skip(self, count: int) -> ExampleBatches:
        """Return the batches of the same epoch without the first ones."""
        rest = ExampleBatches(self.data, self.split, self.order, self.device)
        rest.epoch, rest.first = self.epoch, self.first + count
        return rest

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        augment = self.data.settings.augment if self.split == "train" else "none"
        requests = [
            ExampleRequest(self.split, augment, (self.order.seed, self.epoch), indices)
            for indices in self.order.batches(self.epoch, self.first)
        ]
        yield from ahead(self.data.workers.batches(requests), self._made, side_stream(self.device))

    def _made(self, read: tuple[torch.Tensor, list[Target]]) -> tuple[torch.Tensor, Any]:
        images, targets = read
        if self.device is not None:
            images = images.to(self.device, non_blocking=True)
        return self.data.pixels.normalized(images), self.data.collate(targets)


@dc.dataclass(frozen=True, eq=False)
class ExampleRequest:
    """The images of a batch.

    Args:
        split: split of the images.
        augment: augmentation.
        seeds: seeds of the augmentation, which an image's index completes.
        indices: indices in the split, int64 [N].
    """

    split: Split
    augment: Augment
    seeds: tuple[int, ...]
    indices: npt.NDArray[np.int64]


@dc.dataclass(frozen=True, eq=False)
class ExampleReader:
    """Reads and transforms the images and targets of requests.

    Args:
        splits: the images of each split.
        prepare: makes the transforms of images and targets.
        size: height and width of the network's input.
        unaugmented: height and width of images without augmentation.
    """

    splits: Mapping[Split, Examples]
    prepare: Prepare
    size: tuple[int, int]
    unaugmented: tuple[int, int]

    def __call__(self, request: ExampleRequest) -> tuple[torch.Tensor, list[Target]]:
        """Read the images of a request; returns them, [N, channels, height, width], and their targets.

        Raises:
            DataError: an image cannot be read, or does not get the network's size.
        """
        source, transform = self.splits[request.split], self.prepare(request.augment)
        size = self.unaugmented if request.augment == "none" else self.size
        images, targets = [], []
        for index in request.indices.tolist():
            # while it is read, too: a data set of the user's own may draw random numbers
            with seeded((*request.seeds, index)):
                pixels, target = transform(*source[index])
            if tuple(pixels.shape[-2:]) != size:
                raise DataError(f"image {index} became {list(pixels.shape)}, but the network's input is {list(size)}")
            images.append(pixels)
            targets.append(target)
        return torch.stack(images), targets


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
