"""Splits into training, calibration and validation data, shared by all image tasks."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from edakari.core.memory_format import FORMATS, memory_format_of
from edakari.core.modes import eval_mode
from edakari.core.protocols import Batch, Split
from edakari.core.seeds import derived_seed
from edakari.errors import DataError, UnknownName
from edakari.tasks.order import Order
from edakari.tasks.pixels import Pixels
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources import Arrays, Labels, Mapped, Source
from edakari.tasks.transforms import JITTER

__all__ = [
    "IMAGENET",
    "augmenting",
    "device_of",
    "divided",
    "evaluating",
    "gpu_of",
    "images_for",
    "named_metric",
    "normalization_of",
    "order_of",
    "pixels_of",
    "require_own",
    "training_seed",
]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FASHION = ((0.2860,), (0.3530,))
SIDE = 224
"""Height and width of images that are larger, or differ in size."""


def named_metric(settings: DataSettings, known: Sequence[str]) -> str:
    """Return the main metric: the one in the settings, or the first that a task knows.

    Raises:
        UnknownName: it is none of them.
    """
    metric = settings.metric or known[0]
    if metric not in known:
        raise UnknownName("metric", metric, known)
    return metric


def require_own(settings: DataSettings, task: str) -> None:
    """Raise an error for settings that only classification can use.

    Raises:
        DataError: neither `data.source` nor `data.train` names data, the augmentation is "timm", or transforms are
            asked for on a device.
    """
    if settings.datasets is None and not settings.train and settings.source.startswith("embedded:"):
        raise DataError(f"data.task {task} needs data.source or data.train; {settings.source!r} has classes")
    if settings.augment == "timm":
        raise DataError('data.augment "timm" is for data.task classification; use "light" or "jitter"')
    if settings.transforms == "device":
        raise DataError(
            f'data.transforms "device" is for images with a class or numbers; those of data.task {task} change '
            'together with what they show: use "workers"'
        )


def divided(
    settings: DataSettings, train: Source, val: Source | None, notes: tuple[str, ...] = ()
) -> tuple[dict[Split, Source], tuple[str, ...]]:
    """Divide data into splits, and return notes about them for reports.

    Args:
        settings: settings with the sizes of the splits.
        train: training data as read.
        val: validation data as read; None takes a part of the training data.
        notes: earlier notes.

    Raises:
        DataError: the held-out images leave a class without training images.
    """
    if settings.max_images is not None and settings.max_images < len(train.labels):
        train = train.take(_drawn(train.labels, settings.max_images, settings.seed))
        notes = (*notes, f"trained on {len(train.labels)} images only (data.max_images)")
    if val is None:
        held = _drawn(train.labels, max(1, round(len(train.labels) * settings.val_share)), settings.seed)
        val = train.take(held)
        train = train.take(np.setdiff1d(np.arange(len(train.labels)), held))
        notes = (*notes, f"validated on {len(val.labels)} images cut from the training data; there is no val split")
    chosen = _drawn(train.labels, min(settings.calibration_size, len(train.labels)), settings.seed + 1)
    calibration = train.take(chosen)
    if settings.hold_out:
        train = _without(train, chosen)
        notes = (*notes, f"{len(chosen)} training images are held out (data.hold_out)")
    return {"train": train, "calibration": calibration, "val": val}, notes


def pixels_of(settings: DataSettings, train: Source) -> Pixels:
    """Make the conversion of image bytes to the network's input.

    Raises:
        DataError: mean and standard deviation do not fit the channels.
    """
    channels = settings.channels or train.channels
    size = settings.size or _stored_size(train) or (SIDE, SIDE)
    return Pixels(size, channels, *normalization_of(settings, channels, lambda: _statistics(settings, train)))


def normalization_of(
    settings: DataSettings, channels: int, own: Callable[[], tuple[tuple[float, ...], tuple[float, ...]]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel.

    Args:
        settings: settings that may name them.
        channels: number of channels of the network's input.
        own: gives those of the data, if the settings name none.

    Raises:
        DataError: they do not fit the channels.
    """
    mean, std = settings.mean, settings.std
    if mean is None or std is None:
        own_mean, own_std = own()
        mean, std = mean or own_mean, std or own_std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise DataError(f"data.{name} has {len(values)} values, but the input has {channels} channels")
    if min(std) <= 0:
        raise DataError(f"data.std must be above 0, found {list(std)}; are all images the same?")
    repeat = (channels // len(mean), channels // len(std))
    return tuple(mean) * repeat[0], tuple(std) * repeat[1]


def order_of(settings: DataSettings, count: int, split: Split, seed: int) -> Order:
    """Make the order of images in the batches of a split.

    Args:
        settings: settings with the batch size.
        count: number of images of the split.
        split: "train" is shuffled.
        seed: seed of the training.

    Raises:
        DataError: batches cannot be divided equally among the processes.
    """
    shared, drop = split == "calibration", settings.drop_last and split == "train"
    size = settings.val_batch_size or settings.batch_size if split == "val" else settings.batch_size
    order = Order(count, size, training_seed(seed), split == "train", shared, drop)
    order.check()
    return order


def training_seed(seed: int) -> int:
    """The seed of the order and the augmentation of training images; `DataSettings.seed` draws splits alone."""
    return derived_seed(seed, "training images")


def augmenting(pixels: Pixels, settings: DataSettings, augment: Augment) -> Pixels:
    """Add the random augmentation of training."""
    moves = augment != "none"
    jitter = JITTER if augment == "jitter" else 0.0
    return dc.replace(pixels, pad=settings.pad if moves else 0, flip=moves, jitter=jitter)


def images_for(model: nn.Module, batch: Batch, settings: DataSettings) -> torch.Tensor:
    """Move a batch's images to the network's device, in the memory format of the settings, or else of the network."""
    asked = settings.memory_format
    form = FORMATS[memory_format_of(model) if asked == "auto" else asked]
    images: torch.Tensor = batch[0].to(device_of(model), non_blocking=True, memory_format=form)
    return images


def gpu_of(settings: DataSettings) -> torch.device | None:
    """Return the device on which images are made, a GPU; None is the CPU."""
    return torch.device("cuda") if settings.device == "auto" and torch.cuda.is_available() else None


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context of evaluation mode without gradients; the network's modes are restored."""
    with eval_mode(model), torch.no_grad():
        yield


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a network."""
    first = next(model.parameters(), None)
    return first.device if first is not None else torch.device("cpu")


def _stored_size(train: Source) -> tuple[int, int] | None:
    """Height and width of the images, where they have one size that a network takes as it is; else None."""
    if isinstance(train, Arrays):
        return int(train.images.shape[1]), int(train.images.shape[2])
    found = train.common_size() if isinstance(train, Mapped) else None
    return found if found is not None and max(found) <= SIDE else None


def _statistics(settings: DataSettings, train: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels."""
    channels = settings.channels or train.channels
    if settings.datasets is None and not settings.train and settings.source == "embedded:fashion":
        return FASHION
    if not isinstance(train, Arrays):
        return IMAGENET if channels == 3 else ((0.449,), (0.226,))
    # From a part: the third digit does not matter, the memory of a float copy does.
    some = train.images[:: max(1, len(train.images) // 5000)].astype(np.float64) / 255.0
    mean, std = some.mean((0, 1, 2)), some.std((0, 1, 2))
    if len(mean) != channels:
        return (float(mean.mean()),), (float(std.mean()),)
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def _without(train: Source, chosen: Labels) -> Source:
    rest = train.take(np.setdiff1d(np.arange(len(train.labels)), chosen))
    if train.labels.ndim == 1 and len(np.unique(rest.labels)) < len(np.unique(train.labels)):
        raise DataError(
            f"data.hold_out takes {len(chosen)} of {len(train.labels)} training images and leaves some class without "
            "any; lower data.calibration_size"
        )
    return rest


def _drawn(labels: Labels, count: int, seed: int) -> Labels:
    """Sorted indices of so many images, drawn from each class in proportion to its size where images have one."""
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim > 1:
        return np.sort(order[:count])
    _, classes, sizes = np.unique(labels[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    within = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = np.empty(len(labels), np.float64)
    turn[by_class] = (within + 0.5) / np.repeat(sizes, sizes)
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])
