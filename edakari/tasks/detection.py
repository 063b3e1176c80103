"""Objects in boxes."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import final

from torch import nn

from edakari.core.answers import AnswersResult
from edakari.core.optional import needs
from edakari.core.protocols import Split
from edakari.core.settings import settings
from edakari.tasks.answers import compared_objects
from edakari.tasks.objects import ObjectSettings, ObjectTask, found_in_original, object_data
from edakari.tasks.settings import DataSettings
from edakari.tasks.splits import evaluating, named_metric

__all__ = ["Detection", "DetectionSettings"]


@settings
class DetectionSettings(ObjectSettings):
    """Objects of some classes, in boxes."""

    def make(self, data: DataSettings, seed: int = 0) -> Detection:
        """Read the annotations; see `edakari.tasks.objects.object_data`.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, damaged or of the wrong form.
            UnknownName: the metric or the format is unknown.
        """
        named_metric(data, Detection.metrics)
        return Detection(object_data("detection", "boxes", data, seed), self)


@final
@dc.dataclass(frozen=True, eq=False)
class Detection(ObjectTask):
    """Objects of some classes, in boxes: the network's own losses, and COCO's mean average precision."""

    metrics = ("map", "map50")

    def answers(self, dense: nn.Module, pruned: nn.Module) -> AnswersResult:
        """Compare what two networks answer on validation images; see `edakari.tasks.answers`."""
        return compared_objects(self, dense, pruned)

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute average precision in pixels of the images as they were, over all processes.

        Returns:
            "map", mean over IoU thresholds 0.5 to 0.95 and classes; "map50" and "map75"; "recall" with 100 boxes an
            image.
        """
        with needs("detection", "evaluating a detector"):
            from torchmetrics.detection import MeanAveragePrecision

            precision = MeanAveragePrecision(backend="faster_coco_eval")
            precision.warn_on_many_detections = False  # COCO counts 100 of an image
        with evaluating(model):
            for batch in self.batches(split):
                truth = batch[1]
                found = [
                    found_in_original(each, target)
                    for each, target in zip(self.outputs(model, batch), truth, strict=True)
                ]
                precision.update(found, [found_in_original(target, target) for target in truth])
        figures = precision.compute()
        names = {"map": "map", "map50": "map_50", "map75": "map_75", "recall": "mar_100"}
        # -1 says that no image has an object
        return {name: max(0.0, float(figures[key])) for name, key in names.items()}
