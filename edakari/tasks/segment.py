"""Images with a class at every pixel."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import nn
from torch.nn import functional

from edakari.core.answers import AnswersResult
from edakari.core.optional import needs
from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch, Split
from edakari.core.settings import NonNegative, Positive, PositiveFraction, require_ordered, settings
from edakari.errors import DataError
from edakari.tasks.answers import compared_maps
from edakari.tasks.base import ImageTask
from edakari.tasks.drawing import coloured
from edakari.tasks.example_data import ExampleData
from edakari.tasks.map_data import map_data, stacked
from edakari.tasks.map_placing import MapPlacing, Training
from edakari.tasks.settings import DataSettings, Side
from edakari.tasks.sources.examples import Wanted
from edakari.tasks.splits import device_of, evaluating, named_metric

__all__ = ["Segmentation", "SegmentationSettings"]


@settings
class SegmentationSettings:
    """Which class each pixel shows.

    Args:
        ignore_index: label of pixels that do not count.
        aux_weight: weight of the loss of an auxiliary classifier, whose logits the network gives as `aux`.
        average: pixels over which the loss of a training is averaged: "valid" ones, which count, or "all", those with
            `ignore_index` included.
        base_size: height and width to which images are resized before they are zoomed and cropped to `image_size`, and
            at which they are evaluated; null is `image_size`.
        zoom: smallest and largest random factor of the size, for inputs above 64 pixels.
        zoom_draw: whether the factor itself is drawn uniformly ("linear") or its logarithm ("log").
        max_class: largest fraction of a crop's valid pixels that one class may have; up to 10 crops are tried.
        colours: what `augment: jitter` does to colours: "jitter", or "distort", torchvision's
            `RandomPhotometricDistort`.
    """

    ignore_index: int = 255
    aux_weight: NonNegative = 0.5
    average: Literal["valid", "all"] = "valid"
    base_size: tuple[Side, Side] | None = None
    zoom: tuple[Positive, ...] = (0.5, 2.0)
    zoom_draw: Literal["log", "linear"] = "log"
    max_class: PositiveFraction = 1.0
    colours: Literal["jitter", "distort"] = "jitter"

    output_kind: ClassVar[OutputKind] = "map"

    def __post_init__(self) -> None:
        require_ordered(self, "zoom")

    def make(self, data: DataSettings, seed: int = 0) -> Segmentation:
        """Read names of files, but no images; see `edakari.tasks.map_data.map_data`.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, empty, unreadable or of the wrong form.
            UnknownName: the metric or the format is unknown.
        """
        named_metric(data, Segmentation.metrics)
        wanted = Wanted("map", broken=data.broken, ignore_index=self.ignore_index)

        training = Training(self.zoom, self.zoom_draw == "linear", self.max_class, self.colours)

        def place(size: tuple[int, int], channels: int) -> MapPlacing:
            return MapPlacing(size, "map", self.ignore_index, data.resize, channels, data.pad, training, self.base_size)

        made = map_data("segmentation", wanted, data, place, stacked("map"), seed)
        return Segmentation(dc.replace(made, unaugmented=self.base_size), self)


@final
@dc.dataclass(frozen=True, eq=False)
class Segmentation(ImageTask):
    """Which class each pixel shows: cross-entropy, mean intersection over union, and accuracy.

    Args:
        data: images with maps of labels; batches are images float32 [N, C, H, W] and labels int64 [N, H, W].
        options: settings of the task.
    """

    data: ExampleData
    options: SegmentationSettings = dc.field(default_factory=SegmentationSettings)

    metrics = ("miou", "pixel_accuracy", "mean_accuracy")

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return logits [N, classes, H, W] at the images' size, where the network is.

        The network may give smaller ones (they are resized bilinearly), and may give a mapping with them as `out`, as
        torchvision's networks do, or as `logits`, as those of transformers do.

        Raises:
            DataError: the network has another number of classes than the data, or gives no maps.
        """
        return self._logits(model, batch)[0]

    def objective(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return the terms of `loss`, and "auxiliary" where the network gives logits as `aux`.

        Raises:
            DataError: see `outputs`.
        """
        return self.outputs_and_terms(model, batch)[1]

    def outputs_and_terms(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Return `outputs` and the terms of `objective`, of one forward pass.

        Raises:
            DataError: see `outputs`.
        """
        logits, auxiliary = self._logits(model, batch)
        terms = dict(self.loss(logits, batch))
        if auxiliary is not None and self.options.aux_weight:
            terms["auxiliary"] = self.options.aux_weight * self.loss(auxiliary, batch)["cross_entropy"]
        return logits, terms

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return the term "cross_entropy", mean over the pixels that count, or over all; 0 where none counts."""
        each, counts = self._entropy(outputs, batch)
        if self.options.average == "all":
            return {"cross_entropy": each.mean()}
        return {"cross_entropy": each.sum() / counts.sum().clamp(min=1)}

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the divergence of classes from a teacher's, mean over all pixels."""
        own = functional.log_softmax(outputs.float() / temperature, 1)
        aim = functional.log_softmax(aims.float() / temperature, 1)
        mean: torch.Tensor = functional.kl_div(own, aim, log_target=True, reduction="none").sum(1).mean()
        return mean

    def drawn(self, image: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Colour the classes of the pixels, those of labels or of logits; see `edakari.explain.predictions`."""
        labels = shown.argmax(0) if shown.ndim == 3 else shown
        return coloured(image, labels, len(self.classes))

    def answers(self, dense: nn.Module, pruned: nn.Module) -> AnswersResult:
        """Compare what two networks answer on validation images; see `edakari.tasks.answers`."""
        return compared_maps(self, dense, pruned)

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute fractions of pixels at the network's size, and their cross-entropy, over all processes.

        Returns:
            "miou", mean over those classes that appear in labels or answers, counted over all images together;
            "pixel_accuracy"; "mean_accuracy", mean over those classes that appear in labels; and "loss".
        """
        with needs("train", "evaluating a network"):
            # here, for it takes a second or two to import
            from torchmetrics import MeanMetric
            from torchmetrics.classification import MulticlassConfusionMatrix

        device, ignored = device_of(model), self.options.ignore_index
        confusion = MulticlassConfusionMatrix(len(self.classes), ignore_index=ignored).to(device)
        loss = MeanMetric().to(device)
        with evaluating(model):
            for batch in self.batches(split):
                outputs = self.outputs(model, batch)
                confusion.update(outputs.argmax(1), batch[1].to(device))
                each, counts = self._entropy(outputs, batch)
                loss.update(each, counts.float())
        return {**_fractions(confusion.compute()), "loss": float(loss.compute())}

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits, and those of an auxiliary classifier if there is one, at the images' size."""
        given: Any = self.called(model, batch)
        auxiliary = given.get("aux") if isinstance(given, Mapping) else None
        if isinstance(given, Mapping):
            given = given.get("out", given.get("logits", given))
        given = getattr(given, "logits", given)
        size = tuple(batch[0].shape[-2:])
        return self._sized(given, size), None if auxiliary is None else self._sized(auxiliary, size)

    def _sized(self, logits: Any, size: tuple[int, ...]) -> torch.Tensor:
        if not isinstance(logits, torch.Tensor) or logits.ndim != 4 or logits.shape[1] != len(self.classes):
            given = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise DataError(
                f"the network gives {given} for a batch, but the data has {len(self.classes)} classes at every pixel, "
                f"which are logits [N, {len(self.classes)}, height, width]"
            )
        if tuple(logits.shape[-2:]) == size:
            return logits
        return functional.interpolate(logits, size, mode="bilinear", align_corners=False)

    def _entropy(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of each pixel, 0 where it does not count, and where it does."""
        labels = batch[1].to(outputs.device, non_blocking=True)
        ignored = self.options.ignore_index
        each = functional.cross_entropy(outputs.float(), labels, ignore_index=ignored, reduction="none")
        return each, labels != ignored


def _fractions(confusion: torch.Tensor) -> dict[str, float]:
    """Metrics of a confusion matrix, labels by answers."""
    counts = confusion.double()
    right, labelled, answered = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = labelled + answered - right

    def mean(of: torch.Tensor) -> float:
        there = of > 0
        return float((right[there] / of[there]).mean()) if bool(there.any()) else 0.0

    return {
        "miou": mean(union),
        "pixel_accuracy": float(right.sum() / counts.sum().clamp(min=1)),
        "mean_accuracy": mean(labelled),
    }
