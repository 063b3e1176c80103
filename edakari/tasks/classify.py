"""Image classification."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edakari.core.protocols import Batch, Split
from edakari.errors import DataError, UnknownName
from edakari.tasks.loaders import ArrayBatches, FileBatches, Order, Parts, Pixels
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources import Arrays, Labels, Source, embedded, from_folder, from_npz
from edakari.tasks.transforms import JITTER, training_transform

__all__ = ["Classification", "task_from_settings"]

METRICS = ("top1", "top5")
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FASHION = ((0.2860,), (0.3530,))


@dc.dataclass(frozen=True, eq=False)
class Classification:
    """Which of some classes an image shows: cross-entropy, top-1 and top-5 accuracy.

    Args:
        settings: see `DataSettings`.
        splits: the images of each split.
        pixels: how they become the network's input, without augmentation.
        notes: what a reader of the figures should know about the data, in words.
    """

    settings: DataSettings
    splits: Mapping[Split, Source]
    pixels: Pixels
    notes: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """Name of the main figure; larger is better."""
        return self.settings.metric

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class, in order of the labels."""
        return self.splits["train"].classes

    @property
    def held_out(self) -> bool:
        """Whether the images of "search" are none of "train"."""
        return self.settings.hold_out

    def example(self) -> torch.Tensor:
        """float32 zeros [1, channels, size, size]."""
        return torch.zeros(1, self.pixels.channels, self.pixels.size, self.pixels.size)

    def batches(self, split: Split) -> ArrayBatches | FileBatches:
        """Batches (images float32 [N, C, H, W], labels int64 [N]) of a split.

        "train" is shuffled and augmented anew each epoch (`set_epoch`); it and "val" are shared among processes, while
        each process gets the whole of "search".

        Raises:
            UnknownName: there is no such split.
        """
        training = split == "train"
        return self._loaded(self._source(split), self._order(split), self.settings.augment if training else "none")

    def labels(self, split: Split) -> Labels:
        """Class of each image of a split, int64 [images].

        Raises:
            UnknownName: there is no such split.
        """
        return self._source(split).labels

    def drawn(self, split: Split, parts: Sequence[Labels], *, augmented: bool = False) -> ArrayBatches | FileBatches:
        """See `edakari.core.protocols.NumberedTask`."""
        augment = self.settings.augment if augmented else "none"
        return self._loaded(self._source(split), Parts(tuple(parts), self.settings.seed), augment, 1)

    def numbered(self, views: int = 1) -> ArrayBatches | FileBatches:
        """See `edakari.core.protocols.NumberedTask`."""
        return self._loaded(self._source("train"), self._order("train"), self.settings.augment, views)

    def digest(self) -> str:
        """See `edakari.core.protocols.NumberedTask`; of files the names count, not what is in them."""
        source, pixels = self._source("train"), self.pixels
        digest = hashlib.sha256(repr((pixels.size, pixels.channels, pixels.mean, pixels.std, source.classes)).encode())
        digest.update(source.labels.tobytes())
        if isinstance(source, Arrays):
            digest.update(source.images.tobytes())
        else:
            digest.update("\n".join("/".join(path.parts[-2:]) for path in source.paths).encode())
        return digest.hexdigest()

    def _source(self, split: Split) -> Source:
        if split not in self.splits:
            raise UnknownName("split", split, self.splits)
        return self.splits[split]

    def _order(self, split: Split) -> Order:
        count = len(self._source(split).labels)
        size, seed = self.settings.batch_size, self.settings.seed
        return Order(count, size, seed, shuffle=split == "train", shared=split == "search")

    def _loaded(
        self, source: Source, order: Order | Parts, augment: Augment, views: int = 0
    ) -> ArrayBatches | FileBatches:
        if isinstance(source, Arrays) and augment != "timm":
            moves = augment != "none"
            jitter = JITTER if augment == "jitter" else 0.0
            pixels = dc.replace(self.pixels, pad=self.settings.pad if moves else 0, flip=moves, jitter=jitter)
            return ArrayBatches(source, order, pixels, views)
        transform = training_transform(dc.replace(self.pixels, pad=self.settings.pad), augment)
        return FileBatches(source, order, transform, self.settings.workers, views)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [N, classes], where the network is.

        Raises:
            DataError: the network has another number of outputs than there are classes.
        """
        form = MEMORY_FORMATS[self.settings.memory_format]
        logits: torch.Tensor = model(batch[0].to(_device(model), non_blocking=True, memory_format=form))
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] != len(self.classes):
            found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise DataError(
                f"the network gives {found} for a batch, but the data has {len(self.classes)} classes; build it with "
                f"num_classes={len(self.classes)}"
            )
        return logits

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The term "cross_entropy", mean over the batch."""
        labels = batch[1].to(outputs.device, non_blocking=True)
        smoothing = self.settings.label_smoothing
        return {"cross_entropy": functional.cross_entropy(outputs.float(), labels, label_smoothing=smoothing)}

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Accuracies as shares and the cross-entropy, over all processes.

        Returns:
            "top1", "loss", and "top5" where there are more than five classes.
        """
        # Here, for it takes a second or two to import.
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        device, classes = _device(model), len(self.classes)
        ranks = {"top1": 1, "top5": 5} if classes > 5 else {"top1": 1}
        accuracy = MetricCollection(
            {name: MulticlassAccuracy(classes, top_k=top, average="micro") for name, top in ranks.items()}
        ).to(device)
        loss = MeanMetric().to(device)
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                for batch in self.batches(split):
                    logits, labels = self.outputs(model, batch).float(), batch[1].to(device)
                    accuracy.update(logits, labels)
                    loss.update(functional.cross_entropy(logits, labels, reduction="none"))
        finally:
            for module, mode in modes:
                module.training = mode
        figures = {name: float(value) for name, value in accuracy.compute().items()}
        return {**figures, "loss": float(loss.compute())}


def task_from_settings(settings: DataSettings) -> Classification:
    """The task that settings describe; reads arrays whole, and of folders the names.

    Raises:
        DataError: the data is missing, empty, unreadable or of the wrong form.
        UnknownName: the metric or the embedded data set is not known.
    """
    if settings.metric not in METRICS:
        raise UnknownName("metric", settings.metric, METRICS)
    _check(settings)
    train, val, notes = _sources(settings)
    if settings.metric == "top5" and len(train.classes) <= 5:
        raise DataError(f"data.metric is 'top5', but there are {len(train.classes)} classes; use 'top1'")
    if settings.limit is not None and settings.limit < len(train.labels):
        train = train.take(_drawn(train.labels, settings.limit, settings.seed))
        notes = (*notes, f"trained on {len(train.labels)} images only (data.limit)")
    if val is None:
        held = _drawn(train.labels, max(1, round(len(train.labels) * settings.val_share)), settings.seed)
        val = train.take(held)
        train = train.take(np.setdiff1d(np.arange(len(train.labels)), held))
        notes = (*notes, f"validated on {len(val.labels)} images cut from the training data; there is no val split")
    chosen = _drawn(train.labels, min(settings.search_size, len(train.labels)), settings.seed + 1)
    search = train.take(chosen)
    if settings.hold_out:
        train = _without(train, chosen)
        notes = (*notes, f"{len(chosen)} training images are held out (data.hold_out)")
    splits: dict[Split, Source] = {"train": train, "search": search, "val": val}
    return Classification(settings, splits, _pixels(settings, train), notes)


def _check(settings: DataSettings) -> None:
    for name, value, least in (
        ("batch_size", settings.batch_size, 1),
        ("search_size", settings.search_size, 1),
        ("workers", settings.workers, 0),
        ("pad", settings.pad, 0),
        ("image_size", settings.image_size or 1, 1),
        ("limit", settings.limit if settings.limit is not None else 2, 2),
    ):
        if value < least:
            raise DataError(f"data.{name} must be at least {least}, found {value}")
    if not 0.0 < settings.val_share < 1.0:
        raise DataError(f"data.val_share must lie between 0 and 1, found {settings.val_share}")
    if settings.channels not in (None, 1, 3):
        raise DataError(f"data.channels must be 1 or 3, found {settings.channels}")


def _sources(settings: DataSettings) -> tuple[Source, Source | None, tuple[str, ...]]:
    """Training data, validation data where there is some, and notes."""
    if not settings.train and settings.source.startswith("embedded:"):
        name = settings.source.removeprefix("embedded:")
        train: Source = embedded(name, "train")
        return train, embedded(name, "test") if settings.val is None else _read((settings.val,), train), ()
    if settings.train:
        train, beside = _read(settings.train, None), None
    else:
        root = Path(settings.source)
        inner = root / "train"
        train = _read((str(inner if inner.is_dir() else root),), None)
        beside = str(root / "val") if inner.is_dir() and (root / "val").is_dir() else None
    held = settings.val or beside
    return train, _read((held,), train) if held else None, ()


def _read(paths: tuple[str, ...], like: Source | None) -> Source:
    classes = like.classes if like is not None else None
    if all(path.endswith(".npz") for path in paths):
        return from_npz(paths, classes)
    if len(paths) > 1:
        raise DataError(f"data.train names {list(paths)}; give .npz files only, or a single image folder")
    return from_folder(paths[0], classes)


def _pixels(settings: DataSettings, train: Source) -> Pixels:
    channels = settings.channels or train.channels
    if isinstance(train, Arrays):
        height, width = train.images.shape[1:3]
        if settings.image_size is None and height != width:
            raise DataError(f"the images are {height}x{width}; name data.image_size to make them square")
        size = settings.image_size or int(height)
    else:
        size = settings.image_size or 224
    mean, std = settings.mean, settings.std
    if mean is None or std is None:
        own_mean, own_std = _statistics(settings, train)
        mean, std = mean or own_mean, std or own_std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise DataError(f"data.{name} has {len(values)} values, but the input has {channels} channels")
    if min(std) <= 0:
        raise DataError(f"data.std must be above 0, found {list(std)}; are all images the same?")
    repeat = (channels // len(mean), channels // len(std))
    return Pixels(size, channels, tuple(mean) * repeat[0], tuple(std) * repeat[1])


def _statistics(settings: DataSettings, train: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels."""
    channels = settings.channels or train.channels
    if settings.source == "embedded:fashion" and not settings.train:
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
    if len(np.unique(rest.labels)) < len(np.unique(train.labels)):
        raise DataError(
            f"data.hold_out takes {len(chosen)} of {len(train.labels)} training images and leaves some class without "
            "any; lower data.search_size"
        )
    return rest


def _drawn(labels: Labels, count: int, seed: int) -> Labels:
    """Sorted indices of so many images, drawn from each class in proportion to its size."""
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    turn = np.empty(len(labels), np.float64)
    for label in np.unique(labels):
        size = int((labels == label).sum())
        turn[shuffled == label] = (np.arange(size) + 0.5) / size
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return first.device if first is not None else torch.device("cpu")
