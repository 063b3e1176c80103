"""Objects with keypoints, found by a detector."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import final

from torch import nn

from edakari.core.protocols import Split
from edakari.core.settings import Positive, settings
from edakari.errors import DataError
from edakari.tasks.objects import ObjectSettings, ObjectTask, found_in_original, object_data
from edakari.tasks.oks import KeypointPrecision, points_in_original, sigmas_for
from edakari.tasks.settings import DataSettings
from edakari.tasks.splits import evaluating, named_metric

__all__ = ["KeypointDetection", "KeypointSettings"]


@settings
class KeypointSettings(ObjectSettings):
    """Objects of some classes, with keypoints.

    Args:
        sigmas: how far off each keypoint may be, relative to the object's size; () takes COCO's for 17 keypoints, and
            0.05 for each otherwise.
    """

    sigmas: tuple[Positive, ...] = ()

    def make(self, data: DataSettings, seed: int = 0) -> KeypointDetection:
        """Read the annotations; see `edakari.tasks.objects.object_data`.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, damaged or of the wrong form.
            UnknownName: the metric or the format is unknown.
        """
        named_metric(data, KeypointDetection.metrics)
        return KeypointDetection(object_data("keypoints", "keypoints", data, seed), self)


@final
@dc.dataclass(frozen=True, eq=False)
class KeypointDetection(ObjectTask):
    """Objects of some classes with keypoints: the network's own losses, and average precision by COCO's OKS."""

    options: KeypointSettings

    metrics = ("oks_map", "oks_map50")

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute average precision in pixels of the images as they were, over all processes.

        Returns:
            "oks_map", mean over OKS thresholds 0.5 to 0.95, and "oks_map50".

        Raises:
            DataError: the network gives no keypoints.
        """
        precision = KeypointPrecision(sigmas_for(self.options.sigmas, len(self.data.joints)), self.classes)
        with evaluating(model):
            for batch in self.batches(split):
                for found, target in zip(self.outputs(model, batch), batch[1], strict=True):
                    if "keypoints" not in found:
                        raise DataError(
                            "the network gives no keypoints; data.task keypoints needs one such as Keypoint R-CNN"
                        )
                    boxes = found_in_original(found, target)
                    points = points_in_original(found["keypoints"], target)
                    precision.add(target, boxes["labels"], points, boxes["scores"])
        return precision.compute()
