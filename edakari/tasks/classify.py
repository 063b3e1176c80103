"""Image classification."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import nn
from torch.nn import functional

from edakari.core.answers import AnswersResult
from edakari.core.optional import needs
from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch, Split
from edakari.core.settings import BelowOne, NonNegative, Positive, PositiveFraction, require_ordered, settings
from edakari.errors import DataError
from edakari.tasks.answers import compared_classes
from edakari.tasks.base import ImageTask, class_logits
from edakari.tasks.drawing import captioned
from edakari.tasks.image_data import ImageData, image_data
from edakari.tasks.loaders import ArrayBatches, FileBatches
from edakari.tasks.mixing import MixedBatches, Mixing
from edakari.tasks.order import NeighbourOrder
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources import Labels, Source, from_folder, from_npz, labelled, named_source
from edakari.tasks.splits import device_of, evaluating, named_metric
from edakari.tasks.transforms import ImageCrop, Interpolation

__all__ = ["Classification", "ClassificationSettings", "labelled_sources"]


@settings
class ClassificationSettings:
    """Which one of some classes an image shows.

    Args:
        label_smoothing: label smoothing of the loss (Szegedy et al., 2016, section 7).
        crop_scale: smallest and largest fraction of the area in random crops of image files, for inputs above 64
            pixels; None is [0.35, 1] for "light" and "jitter", and timm's own for "timm".
        crop_ratio: smallest and largest aspect (width by height) of random crops.
        interpolation: how image files are resized, in training and in evaluation: "bilinear" or "bicubic"; None is
            "bilinear", and timm's own in training with "timm".
        mixup: parameter of the beta distribution by which each training image is blended with another one of its batch,
            and their classes likewise; 0.2 is usual. 0 and None leave it out.
        cutmix: parameter of the beta distribution that gives the area of a rectangle of another image, which is pasted
            over each training image; 1.0 is usual. 0 and None leave it out. With `mixup`, each batch draws one of both.
    """

    label_smoothing: BelowOne = 0.0
    crop_scale: tuple[PositiveFraction, ...] | None = None
    crop_ratio: tuple[Positive, ...] = (3 / 4, 4 / 3)
    interpolation: Interpolation | None = None
    # A folder of a run that was begun before these were there has none of them, which reads as None.
    mixup: NonNegative | None = None
    cutmix: NonNegative | None = None

    indexed: ClassVar[bool] = True
    output_kind: ClassVar[OutputKind] = "class"

    def __post_init__(self) -> None:
        require_ordered(self, "crop_scale", "crop_ratio")

    @property
    def mixing(self) -> Mixing:
        """How training images are mixed."""
        return Mixing(self.mixup or 0.0, self.cutmix or 0.0)

    def make(self, data: DataSettings, seed: int = 0) -> Classification:
        """Read the data; arrays into memory, and of folders the names.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, empty, unreadable or of the wrong form.
            UnknownName: the metric or the embedded data set is unknown.
        """
        metric = named_metric(data, Classification.metrics)
        train, val, notes = labelled_sources(data)
        if metric == "top5" and len(train.classes) <= 5:
            raise DataError(f"data.metric is 'top5', but there are {len(train.classes)} classes; use 'top1'")
        crop = ImageCrop(self.crop_scale, self.crop_ratio, self.interpolation)
        return Classification(dc.replace(image_data(data, train, val, notes, seed), crop=crop), self)


@final
@dc.dataclass(frozen=True, eq=False)
class Classification(ImageTask):
    """Which one of some classes an image shows: cross-entropy, top-1 and top-5 accuracy.

    Args:
        data: images and their classes.
        options: settings of the task.
    """

    data: ImageData
    options: ClassificationSettings = dc.field(default_factory=ClassificationSettings)

    metrics = ("top1", "top5")

    @property
    def held_out(self) -> bool:
        """Whether no image of "calibration" is in "train"."""
        return self.data.settings.hold_out

    @property
    def mixes(self) -> bool:
        """Whether images of "train" are mixed, so that each has several classes."""
        return bool(self.options.mixing)

    def unmixed(self) -> Classification:
        """Return this task without mixing."""
        return dc.replace(self, options=dc.replace(self.options, mixup=None, cutmix=None))

    def batches(self, split: Split) -> Iterable[Batch]:
        """Return the batches of a split; see `ImageData.batches`.

        Where images are mixed, the labels of "train" are float32 [N, classes].

        Raises:
            UnknownName: there is no such split.
        """
        if split != "train" or not self.mixes:
            return self.data.batches(split)
        order = NeighbourOrder(self.data.order(split))
        return MixedBatches(self.data.batches_in(split, order), self.options.mixing, len(self.classes))

    def labels(self, split: Split) -> Labels:
        """Return the class of each image of a split, int64 [images].

        Raises:
            UnknownName: there is no such split.
        """
        return self.data.source(split).labels

    def batches_at(
        self, split: Split, parts: Sequence[Labels], *, augmented: bool = False
    ) -> ArrayBatches | FileBatches:
        """See `edakari.core.protocols.IndexedTask`."""
        return self.data.batches_at(split, parts, augmented)

    def with_indices(self, views: int = 1) -> ArrayBatches | FileBatches:
        """See `edakari.core.protocols.IndexedTask`.

        Raises:
            DataError: images are mixed, so that what is stored for each would not be what it shows.
        """
        if self.mixes:
            raise DataError(
                "views, memory banks and stored teachers look up training images by index, and mixed ones have none; "
                "leave mixup and cutmix out of data.task"
            )
        return self.data.with_indices(views)

    def digest(self) -> str:
        """See `edakari.core.protocols.IndexedTask`; covers the names of files, not their content."""
        return self.data.digest()

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [N, classes], where the network is.

        Raises:
            DataError: the network has another number of outputs than there are classes.
        """
        return class_logits(self.called(model, batch), self.classes)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The term "cross_entropy", mean over the batch; labels are classes [N] or their fractions [N, classes]."""
        labels = batch[1].to(outputs.device, non_blocking=True)
        smoothing = self.options.label_smoothing
        return {"cross_entropy": functional.cross_entropy(outputs.float(), labels, label_smoothing=smoothing)}

    def drawn(self, image: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Draw an image above its class, or the three most probable ones; see `edakari.explain.predictions`."""
        if not shown.ndim:
            return captioned(image, [self.classes[int(shown)]])
        best, labels = shown.float().softmax(0).topk(min(3, len(shown)))
        pairs = zip(best.tolist(), labels.tolist(), strict=True)
        return captioned(image, [f"{self.classes[label]} {100 * share:.0f} %" for share, label in pairs])

    def answers(self, dense: nn.Module, pruned: nn.Module) -> AnswersResult:
        """Compare what two networks answer on validation images; see `edakari.tasks.answers`."""
        return compared_classes(self, dense, pruned)

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


def labelled_sources(
    settings: DataSettings, *, same_classes: bool = True
) -> tuple[Source, Source | None, tuple[str, ...]]:
    """Read images with one class each.

    Args:
        settings: settings of the data.
        same_classes: whether the validation data must have the classes of the training data.

    Returns:
        Training data, validation data where there is some, and notes.

    Raises:
        DataError: the data is missing, empty, unreadable or of the wrong form.
    """
    if settings.datasets is not None:
        first, second = settings.datasets
        known = labelled(first, "the training data")
        classes = known.classes if same_classes else None
        return known, None if second is None else labelled(second, "the validation data", classes), ()
    named = None if settings.train else named_source(settings.source)
    if named is not None:
        like = named[0] if same_classes else None
        return named[0], named[1] if settings.val is None else _read((settings.val,), like), ()
    if settings.train:
        train, beside = _read(settings.train, None), None
    else:
        root = Path(settings.source)
        inner = root / "train"
        train = _read((str(inner if inner.is_dir() else root),), None)
        beside = str(root / "val") if inner.is_dir() and (root / "val").is_dir() else None
    held = settings.val or beside
    return train, _read((held,), train if same_classes else None) if held else None, ()


def _read(paths: tuple[str, ...], like: Source | None) -> Source:
    classes = like.classes if like is not None else None
    if all(path.endswith(".npz") for path in paths):
        return from_npz(paths, classes)
    if len(paths) > 1:
        raise DataError(f"data.train names {list(paths)}; give .npz files only, or a single image folder")
    return from_folder(paths[0], classes)
