"""Objects in boxes."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Annotated, Any, final

import torch
from torch import nn

from edakari.core.optional import needs
from edakari.core.protocols import Batch, Split
from edakari.core.settings import settings
from edakari.errors import DataError
from edakari.tasks.detectors import DETECTORS, Detections, Detector, bare
from edakari.tasks.example_data import ExampleData, divided_examples
from edakari.tasks.image_task import ImageTask
from edakari.tasks.placing import Placing, sent_back
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources.examples import Wanted
from edakari.tasks.sources.formats import read_examples
from edakari.tasks.splits import device_of, evaluating, images_for, named_metric, require_own

__all__ = ["Detection", "DetectionSettings"]

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation of pixels in 0 to 1: most detectors normalise images themselves."""


@settings
class DetectionSettings:
    """Objects of some classes, in boxes.

    Args:
        detector: how the network is called: as detectors of "torchvision", "transformers" or "ultralytics", or your own
            way; "auto" goes by the network's class, and takes "torchvision" for classes of other libraries.
    """

    detector: Annotated[str, DETECTORS] = "auto"

    def make(self, data: DataSettings, seed: int = 0) -> Detection:
        """Read the annotations, but no images.

        Args:
            data: settings of the data; without `data.mean` and `data.std` images keep their values in 0 to 1.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, damaged or of the wrong form.
            UnknownName: the metric or the format is unknown.
        """
        named_metric(data, Detection.metrics)
        require_own(data, "detection")
        if data.size is None:
            raise DataError(
                "data.task detection needs data.image_size, the size of the network's input: [height, width]"
            )
        train, val = read_examples(data.source, Wanted("boxes", broken=data.broken), data.train, data.val)
        splits, notes = divided_examples(data, train, val)
        mean, std = (values * (3 // len(values)) for values in (data.mean or PLAIN[0], data.std or PLAIN[1]))
        placing = Placing(data.size, data.resize)
        return Detection(ExampleData(data, splits, data.size, (mean, std), placing, notes=notes, seed=seed), self)


@final
@dc.dataclass(frozen=True, eq=False)
class Detection(ImageTask):
    """Objects of some classes, in boxes: the network's own losses, and COCO's mean average precision.

    Args:
        data: images with `boxes` and `labels`.
        options: settings of the task.
    """

    data: ExampleData
    options: DetectionSettings = dc.field(default_factory=DetectionSettings)

    metrics = ("map", "map50")

    def detector(self, model: nn.Module) -> Detector:
        """Return how a network is called.

        Raises:
            DataError: the network tells another number of classes apart than the data has.
        """
        found = DETECTORS[self.options.detector]()
        count = found.classes(model)
        if count is not None and count != len(self.classes):
            raise DataError(
                f"{type(bare(model)).__name__} tells {count} classes apart, but the data has {len(self.classes)}: "
                f"{', '.join(self.classes[:8])}; build it with as many (where the background counts, as in "
                f"torchvision, num_classes={len(self.classes) + 1})"
            )
        return found

    def outputs(self, model: nn.Module, batch: Batch) -> Detections:
        """Return boxes, scores and labels of each image, in pixels of the network's input.

        Raises:
            DataError: the network gives something else, or has other classes.
        """
        return self.detector(model).detections(model, images_for(model, batch, self.data.settings))

    def objective(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return the network's own losses of a batch; regions of many objects (`iscrowd`) are no targets.

        Raises:
            DataError: the network gives something else, or has other classes.
        """
        device = device_of(model)
        targets = [_without_crowds(target, device) for target in batch[1]]
        return self.detector(model).losses(model, images_for(model, batch, self.data.settings), targets)

    def loss(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Raise an error: boxes do not tell the loss. Use `objective`.

        Raises:
            DataError: always.
        """
        raise DataError("the loss of a detector is no function of its boxes; use edakari.core.objective.task_objective")

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute average precision in pixels of the images as they were, over all processes.

        Returns:
            "map", mean over IoU thresholds 0.5 to 0.95 and classes; "map50" and "map75"; "recall" with 100 boxes an
            image.
        """
        with needs("detection", "evaluating a detector"):
            from torchmetrics.detection import MeanAveragePrecision

            precision = MeanAveragePrecision(backend="faster_coco_eval")
        with evaluating(model):
            for batch in self.batches(split):
                truth = batch[1]
                found = [_moved(each, target) for each, target in zip(self.outputs(model, batch), truth, strict=True)]
                precision.update(found, [_moved(target, target) for target in truth])
        figures = precision.compute()
        names = {"map": "map", "map50": "map_50", "map75": "map_75", "recall": "mar_100"}
        # -1 says that no image has an object
        return {name: max(0.0, float(figures[key])) for name, key in names.items()}


def _without_crowds(target: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    single = ~torch.as_tensor(target["iscrowd"]).bool()
    return {name: torch.as_tensor(target[name])[single].to(device) for name in ("boxes", "labels")}


def _moved(found: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Boxes and what belongs to them, in pixels of the image as it was, on the CPU."""
    names = ("scores", "labels", "area", "iscrowd")
    rest = {name: torch.as_tensor(found[name]).cpu() for name in names if name in found}
    boxes = torch.as_tensor(found["boxes"]).as_subclass(torch.Tensor).float().cpu()
    return {"boxes": sent_back(boxes, target["placed"], target["original"]), **rest}
