"""What tasks on objects have in common: the network's own losses, and predictions in pixels of its input."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch
from edakari.core.settings import settings
from edakari.errors import DataError
from edakari.tasks.annotated import annotated_images
from edakari.tasks.base import ImageTask
from edakari.tasks.detectors import DETECTORS, Detections, Detector, bare
from edakari.tasks.drawing import boxed
from edakari.tasks.example_data import ExampleData, divided_examples
from edakari.tasks.placing import Placing, sent_back
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources.examples import Target, Wanted
from edakari.tasks.splits import device_of, images_for, require_own

__all__ = ["ObjectSettings", "ObjectTask", "found_in_original", "object_data"]

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation of pixels in 0 to 1: most detectors normalise images themselves."""
TRAINED = ("boxes", "labels", "masks", "keypoints", "visible")
"""Entries of targets that losses may need."""


@settings
class ObjectSettings:
    """Objects of some classes.

    Args:
        detector: how the network is called: as detectors of "torchvision", "transformers" or "ultralytics", or your own
            way; "auto" goes by the network's class, and takes "torchvision" for classes of other libraries.
    """

    output_kind: ClassVar[OutputKind] = "objects"

    detector: Annotated[str, DETECTORS] = "auto"


def object_data(name: str, target: Target, data: DataSettings, seed: int) -> ExampleData:
    """Read annotations, but no images.

    Args:
        name: the task, for errors.
        target: what the task learns.
        data: settings of the data; without `data.mean` and `data.std` images keep their values in 0 to 1.
        seed: seed of the training's order and augmentation.

    Raises:
        DataError: the data is missing, damaged or of the wrong form, or the size of the input is not named.
        UnknownName: the format is unknown.
    """
    require_own(data, name)
    if data.size is None:
        raise DataError(f"data.task {name} needs data.image_size, the size of the network's input: [height, width]")
    train, val = annotated_images(data, Wanted(target, broken=data.broken))
    splits, notes = divided_examples(data, train, val)
    mean, std = (values * (3 // len(values)) for values in (data.mean or PLAIN[0], data.std or PLAIN[1]))
    placing = Placing(data.size, data.resize, tuple(getattr(train, "flip_pairs", ())))
    return ExampleData(data, splits, data.size, (mean, std), placing, notes=notes, seed=seed)


@dc.dataclass(frozen=True, eq=False)
class ObjectTask(ImageTask):
    """Base of the tasks on objects; a task adds metrics.

    Args:
        data: images with `boxes` and `labels`.
        options: settings of the task.
    """

    data: ExampleData
    options: ObjectSettings

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
        targets = [_single(target, device) for target in batch[1]]
        return self.detector(model).losses(model, images_for(model, batch, self.data.settings), targets)

    def drawn(self, image: torch.Tensor, shown: Mapping[str, Any]) -> torch.Tensor:
        """Draw objects with a score of 0.3 or more, or those of a target; see `edakari.explain.predictions`."""
        return boxed(image, shown, self.classes)

    def loss(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Raise an error: boxes do not tell the loss. Use `objective`.

        Raises:
            DataError: always.
        """
        raise DataError("the loss of a detector is no function of its boxes; use edakari.core.objective.task_objective")


def found_in_original(found: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return boxes and what belongs to them in pixels of the image as it was, on the CPU.

    Args:
        found: predictions, or a target, in pixels of the network's input.
        target: the target of the image, which knows how it was resized.
    """
    names = ("scores", "labels", "area", "iscrowd", "masks")
    rest = {name: _plain(found[name]).cpu() for name in names if name in found}
    return {"boxes": sent_back(_plain(found["boxes"]).float().cpu(), target["placed"], target["original"]), **rest}


def _single(target: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A target without regions of many objects."""
    single = ~_plain(target["iscrowd"]).bool()
    return {name: _plain(target[name])[single].to(device) for name in TRAINED if name in target}


def _plain(value: Any) -> torch.Tensor:
    """A tensor without the class that transforms need."""
    return torch.as_tensor(value).as_subclass(torch.Tensor)
