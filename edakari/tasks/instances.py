"""Objects with masks."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import nn

from edakari.core.optional import needs
from edakari.core.protocols import Split
from edakari.core.settings import settings
from edakari.errors import DataError
from edakari.tasks.objects import ObjectSettings, ObjectTask, object_data
from edakari.tasks.settings import DataSettings
from edakari.tasks.splits import evaluating, named_metric

__all__ = ["InstanceSegmentation", "InstanceSettings"]


@settings
class InstanceSettings(ObjectSettings):
    """Objects of some classes, with their masks."""

    def make(self, data: DataSettings, seed: int = 0) -> InstanceSegmentation:
        """Read the annotations; see `edakari.tasks.objects.object_data`.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, damaged or of the wrong form.
            UnknownName: the metric or the format is unknown.
        """
        named_metric(data, InstanceSegmentation.metrics)
        return InstanceSegmentation(object_data("instance_segmentation", "masks", data, seed), self)


@final
@dc.dataclass(frozen=True, eq=False)
class InstanceSegmentation(ObjectTask):
    """Objects of some classes with their masks: the network's own losses, and average precision of masks and boxes."""

    metrics = ("mask_map", "mask_map50", "map", "map50")

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute average precision over all processes, at the size of the network's input.

        Returns:
            "mask_map" and "mask_map50" by the IoU of masks; "map" and "map50" by that of boxes.

        Raises:
            DataError: the network gives no masks.
        """
        with needs("detection", "evaluating masks"):
            from torchmetrics.detection import MeanAveragePrecision

            precision = MeanAveragePrecision(iou_type=("segm", "bbox"), backend="faster_coco_eval")
            precision.warn_on_many_detections = False  # COCO counts 100 of an image
        with evaluating(model):
            for batch in self.batches(split):
                found = [_masked(each) for each in self.outputs(model, batch)]
                precision.update(found, [_masked(target) for target in batch[1]])
        figures = precision.compute()
        names = {"mask_map": "segm_map", "mask_map50": "segm_map_50", "map": "bbox_map", "map50": "bbox_map_50"}
        # -1 says that no image has an object
        return {name: max(0.0, float(figures[key])) for name, key in names.items()}


def _masked(found: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Boxes and binary masks [n, H, W] of an image, on the CPU; masks of networks are probabilities [n, 1, H, W]."""
    if "masks" not in found:
        raise DataError("the network gives no masks; data.task instance_segmentation needs one such as Mask R-CNN")
    names = ("boxes", "scores", "labels", "iscrowd")
    rest = {name: torch.as_tensor(found[name]).cpu() for name in names if name in found}
    masks = torch.as_tensor(found["masks"]).as_subclass(torch.Tensor).cpu()
    return {**rest, "masks": (masks.squeeze(1) if masks.ndim == 4 else masks) > 0.5}
