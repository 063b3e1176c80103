"""Image classification."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from edakari.core.blank import blank
from edakari.core.optional import needs
from edakari.core.protocols import Batch, Split
from edakari.errors import DataError, UnknownName
from edakari.tasks.loaders import ArrayBatches, FileBatches, FixedBatches, Order, Pixels
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources import Arrays, Labels, Source, from_folder, from_npz, named_source
from edakari.tasks.splits import (
    augmenting,
    device_of,
    divided,
    evaluating,
    images_for,
    named_metric,
    order_of,
    pixels_of,
    training_seed,
)
from edakari.tasks.transforms import training_transform

__all__ = ["Classification", "classification"]

METRICS = ("top1", "top5")


@dc.dataclass(frozen=True, eq=False)
class Classification:
    """Which of some classes an image shows: cross-entropy, top-1 and top-5 accuracy.

    Args:
        settings: see `DataSettings`.
        splits: the images of each split.
        pixels: how they become the network's input, without augmentation.
        notes: what a reader of the figures should know about the data, in words.
        seed: seed of the training's order and augmentation.
    """

    settings: DataSettings
    splits: Mapping[Split, Source]
    pixels: Pixels
    notes: tuple[str, ...] = ()
    seed: int = 0

    @property
    def metric(self) -> str:
        """Name of the main figure; larger is better."""
        return self.settings.metric or METRICS[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class, in order of the labels."""
        return self.splits["train"].classes

    @property
    def held_out(self) -> bool:
        """Whether no image of "calibration" is in "train"."""
        return self.settings.hold_out

    def example(self) -> torch.Tensor:
        """float32 zeros [1, channels, size, size]."""
        return blank(1, self.pixels.channels, self.pixels.size, self.pixels.size)

    def batches(self, split: Split) -> ArrayBatches | FileBatches:
        """Batches (images float32 [N, C, H, W], labels int64 [N]) of a split.

        "train" is shuffled and augmented differently in each epoch (`set_epoch`); it and "val" are shared among
        processes, while each process gets all of "calibration".

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

    def batches_at(
        self, split: Split, parts: Sequence[Labels], *, augmented: bool = False
    ) -> ArrayBatches | FileBatches:
        """See `edakari.core.protocols.IndexedTask`."""
        augment = self.settings.augment if augmented else "none"
        return self._loaded(self._source(split), FixedBatches(tuple(parts), training_seed(self.seed)), augment, 1)

    def with_indices(self, views: int = 1) -> ArrayBatches | FileBatches:
        """See `edakari.core.protocols.IndexedTask`."""
        return self._loaded(self._source("train"), self._order("train"), self.settings.augment, views)

    def digest(self) -> str:
        """See `edakari.core.protocols.IndexedTask`; of files the names count, not what is in them."""
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
        return order_of(self.settings, self._source(split), split, self.seed)

    def _loaded(
        self, source: Source, order: Order | FixedBatches, augment: Augment, views: int = 0
    ) -> ArrayBatches | FileBatches:
        if isinstance(source, Arrays) and augment != "timm":
            return ArrayBatches(source, order, augmenting(self.pixels, self.settings, augment), views)
        transform = training_transform(dc.replace(self.pixels, pad=self.settings.pad), augment)
        return FileBatches(source, order, transform, self.settings.workers, views)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [N, classes], where the network is.

        Raises:
            DataError: the network has another number of outputs than there are classes.
        """
        logits: torch.Tensor = model(images_for(model, batch, self.settings))
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
        with needs("train", "evaluating a network"):
            # here, for it takes a second or two to import
            from torchmetrics import MeanMetric, MetricCollection
            from torchmetrics.classification import MulticlassAccuracy

        device, classes = device_of(model), len(self.classes)
        ranks = {"top1": 1, "top5": 5} if classes > 5 else {"top1": 1}
        accuracy = MetricCollection(
            {name: MulticlassAccuracy(classes, top_k=top, average="micro") for name, top in ranks.items()}
        ).to(device)
        loss = MeanMetric().to(device)
        with evaluating(model):
            for batch in self.batches(split):
                logits, labels = self.outputs(model, batch).float(), batch[1].to(device)
                accuracy.update(logits, labels)
                loss.update(functional.cross_entropy(logits, labels, reduction="none"))
        figures = {name: float(value) for name, value in accuracy.compute().items()}
        return {**figures, "loss": float(loss.compute())}


def classification(settings: DataSettings, seed: int = 0) -> Classification:
    """The task of one class for each image; reads arrays whole, and of folders the names.

    Args:
        settings: see `DataSettings`.
        seed: seed of the training's order and augmentation.

    Raises:
        DataError: the data is missing, empty, unreadable or of the wrong form.
        UnknownName: the metric or the embedded data set is not known.
    """
    metric = named_metric(settings, METRICS)
    train, val, notes = _sources(settings)
    if metric == "top5" and len(train.classes) <= 5:
        raise DataError(f"data.metric is 'top5', but there are {len(train.classes)} classes; use 'top1'")
    splits, notes = divided(settings, train, val, notes)
    return Classification(settings, splits, pixels_of(settings, splits["train"]), notes, seed)


def _sources(settings: DataSettings) -> tuple[Source, Source | None, tuple[str, ...]]:
    """Training data, validation data where there is some, and notes."""
    named = None if settings.train else named_source(settings.source)
    if named is not None:
        return named[0], named[1] if settings.val is None else _read((settings.val,), named[0]), ()
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
