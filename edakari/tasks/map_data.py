"""Images with a value at every pixel, read on access, and their batches."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edakari.errors import DataError
from edakari.tasks.annotated import annotated_images
from edakari.tasks.example_data import Collate, ExampleData, Prepare, divided_examples
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources.examples import Examples, Wanted, channels_of, sizes_of
from edakari.tasks.splits import IMAGENET, normalization_of, require_own

__all__ = ["map_data", "stacked"]

MEASURED = 2000
"""Images of which mean and standard deviation are taken."""
Place = Callable[[tuple[int, int], int], Prepare]
"""From the size of the network's input and its channels to the transforms."""


def map_data(
    name: str, wanted: Wanted, data: DataSettings, place: Place, collate: Collate, seed: int = 0
) -> ExampleData:
    """Read names of files, but no images.

    Args:
        name: the task, for errors.
        wanted: what the task learns.
        data: settings of the data.
        place: makes the transforms of a size and a number of channels.
        collate: makes the second entry of a batch.
        seed: seed of the training's order and augmentation.

    Raises:
        DataError: the data is missing, damaged or of the wrong form, or images differ in size and the settings name
            none.
        UnknownName: the format is unknown.
    """
    require_own(data, name)
    train, val = annotated_images(data, wanted)
    splits, notes = divided_examples(data, train, val)
    stored = channels_of(train)
    size, channels = data.size or _common_size(name, train), data.channels or stored or 3

    def own() -> tuple[tuple[float, ...], tuple[float, ...]]:
        if stored is not None:
            return _measured(splits["train"], channels)
        return IMAGENET if channels == 3 else ((0.449,), (0.226,))

    # workers read files: images in memory are sooner there without them
    settings = data if stored is None else dc.replace(data, workers=0)
    normalization = normalization_of(data, channels, own)
    return ExampleData(settings, splits, size, normalization, place(size, channels), collate, notes, seed)


def stacked(entry: str) -> Collate:
    """Return a function that stacks an entry of targets to a tensor [N, height, width]."""
    return _Stacked(entry)


@dc.dataclass(frozen=True)
class _Stacked:
    """A class, so that worker processes can be handed it."""

    entry: str

    def __call__(self, targets: list[dict[str, Any]]) -> torch.Tensor:
        return torch.stack([target[self.entry] for target in targets])


def _common_size(name: str, examples: Examples) -> tuple[int, int]:
    sizes = sizes_of(examples)
    if (sizes != sizes[:1]).any() or (sizes <= 0).any():
        found = "the size of its images is not known in advance" if (sizes <= 0).any() else "images differ in size"
        raise DataError(f"data.task {name}: {found}; name data.image_size: [height, width]")
    return int(sizes[0, 0]), int(sizes[0, 1])


def _measured(examples: Examples, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, or of all together, over a part of the images."""
    chosen = range(0, len(examples), max(1, len(examples) // MEASURED))
    sums, squares, count = np.zeros(3), np.zeros(3), 0
    for index in chosen:
        pixels = np.asarray(examples[index][0], np.float64).reshape(3, -1) / 255
        sums, squares, count = sums + pixels.sum(1), squares + (pixels**2).sum(1), count + pixels.shape[1]
    mean, squared = sums / count, squares / count
    std = np.sqrt(np.maximum(squared - mean**2, 0))
    if channels == 1:
        return (float(mean.mean()),), (float(std.mean()),)
    return tuple(mean.tolist()), tuple(std.tolist())
