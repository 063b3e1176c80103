"""Images with a class at every pixel."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, cast, final

import torch
from torch import nn
from torch.nn import functional

from edakari.core.optional import needs
from edakari.core.protocols import Batch, Split
from edakari.core.settings import settings
from edakari.errors import DataError
from edakari.tasks.base import ImageTask
from edakari.tasks.image_data import ImageData, image_data
from edakari.tasks.segmentation_data import MapBatches, read_maps
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources import Arrays
from edakari.tasks.splits import augmenting, device_of, evaluating, named_metric, require_own

__all__ = ["Segmentation", "SegmentationSettings"]


@settings
class SegmentationSettings:
    """Which class each pixel shows.

    Args:
        ignore_index: label of pixels that do not count.
    """

    ignore_index: int = 255

    def make(self, data: DataSettings, seed: int = 0) -> Segmentation:
        """Read the data; see `edakari.tasks.segmentation_data.read_maps`.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, empty, unreadable or of the wrong form.
            UnknownName: the metric is unknown.
        """
        named_metric(data, Segmentation.metrics)
        require_own(data, "segmentation")
        train, val = read_maps(data, self.ignore_index)
        return Segmentation(image_data(data, train, val, seed=seed), self)


@final
@dc.dataclass(frozen=True, eq=False)
class Segmentation(ImageTask):
    """Which class each pixel shows: cross-entropy, mean intersection over union, pixel accuracy.

    Args:
        data: images with labels [N, H, W].
        options: settings of the task.
    """

    data: ImageData
    options: SegmentationSettings = dc.field(default_factory=SegmentationSettings)

    metrics = ("miou", "pixel_accuracy")

    def batches(self, split: Split) -> MapBatches:
        """Return the batches (images float32 [N, C, H, W], labels int64 [N, H, W]) of a split.

        Mirrors and shifts move images and labels of "train" together.

        Raises:
            UnknownName: there is no such split.
        """
        data = self.data
        pixels = augmenting(data.pixels, data.settings, data.augment(split))
        source = cast(Arrays, data.source(split))
        return MapBatches(source, data.order(split), pixels, self.options.ignore_index)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [N, classes, H, W] at the images' size, where the network is.

        The network may give them smaller (they are brought to size bilinearly), and may give a mapping with them as
        `out`, as torchvision's networks do; what else is in it is left alone.

        Raises:
            DataError: the network has another number of classes than the data, or gives no maps.
        """
        logits: Any = self.called(model, batch)
        if isinstance(logits, Mapping) and "out" in logits:
            logits = logits["out"]
        if not isinstance(logits, torch.Tensor) or logits.ndim != 4 or logits.shape[1] != len(self.classes):
            given = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise DataError(
                f"the network gives {given} for a batch, but the data has {len(self.classes)} classes at every pixel, "
                f"which are logits [N, {len(self.classes)}, height, width]"
            )
        found: torch.Tensor = logits
        size = tuple(batch[0].shape[-2:])
        if tuple(found.shape[-2:]) != size:
            found = functional.interpolate(found, size, mode="bilinear", align_corners=False)
        return found

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The term "cross_entropy", mean over the pixels that count; 0 where none does."""
        each, counts = self._entropy(outputs, batch)
        return {"cross_entropy": each.sum() / counts.sum().clamp(min=1)}

    def _entropy(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of each pixel, 0 where it does not count, and where it does."""
        labels = batch[1].to(outputs.device, non_blocking=True)
        ignored = self.options.ignore_index
        each = functional.cross_entropy(outputs.float(), labels, ignore_index=ignored, reduction="none")
        return each, labels != ignored

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Divergence of classes from a teacher's, mean over all pixels."""
        own = functional.log_softmax(outputs.float() / temperature, 1)
        aim = functional.log_softmax(aims.float() / temperature, 1)
        mean: torch.Tensor = functional.kl_div(own, aim, log_target=True, reduction="none").sum(1).mean()
        return mean

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Shares, and the cross-entropy of pixels, over all processes.

        Returns:
            "miou", mean over those classes that appear in labels or answers, counted over all images together;
            "pixel_accuracy", and "loss".
        """
        with needs("train", "evaluating a network"):
            # here, for it takes a second or two to import
            from torchmetrics import MeanMetric, MetricCollection
            from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        device, classes, ignored = device_of(model), len(self.classes), self.options.ignore_index
        figures = MetricCollection(
            {
                "miou": MulticlassJaccardIndex(classes, ignore_index=ignored),
                "pixel_accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=ignored),
            }
        ).to(device)
        loss = MeanMetric().to(device)
        with evaluating(model):
            for batch in self.batches(split):
                outputs = self.outputs(model, batch)
                figures.update(outputs.argmax(1), batch[1].to(device))
                each, counts = self._entropy(outputs, batch)
                loss.update(each, counts.float())
        found = {name: float(value) for name, value in figures.compute().items()}
        return {**found, "loss": float(loss.compute())}
