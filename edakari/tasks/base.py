"""What all tasks on images have in common."""

from __future__ import annotations

import abc
import dataclasses as dc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from edakari.core.memory_format import AnyFormat
from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch, Split
from edakari.errors import DataError
from edakari.tasks.preprocessing import Preprocessing
from edakari.tasks.settings import DataSettings
from edakari.tasks.splits import images_for, named_metric

__all__ = ["ImageTask", "TaskData", "class_logits"]

COUNTED: tuple[OutputKind, ...] = ("class", "classes", "map")
"""Answers of networks with one output for each class."""


class TaskData(Protocol):
    """Data of a task: batches of its splits."""

    @property
    def settings(self) -> DataSettings:
        """Settings of the data."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order of the labels; empty if there are none."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the data for readers of the results."""

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, for pixels in 0 to 1."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images become the network's input in evaluation; None where it takes more than an image to tell."""

    def example(self) -> torch.Tensor:
        """Return float32 zeros [1, channels, height, width]."""

    def batches(self, split: Split) -> Iterable[Batch]:
        """Return the batches of a split: images float32 [N, C, H, W], then what they show.

        Raises:
            UnknownName: there is no such split.
        """


@dc.dataclass(frozen=True, eq=False)
class ImageTask(abc.ABC):
    """Base of the tasks on images; a task adds outputs, loss and metrics.

    Args:
        data: images and what they show.
        options: settings of the task.
    """

    data: TaskData
    options: Any = None

    metrics: ClassVar[tuple[str, ...]]
    """Names of the metrics that may be the main one; the first is the default."""

    @property
    def metric(self) -> str:
        """Name of the main metric; larger is better."""
        return named_metric(self.data.settings, self.metrics)

    @property
    def memory_format(self) -> AnyFormat:
        """Memory format in which networks are trained and evaluated, as `data.memory_format` says."""
        return self.data.settings.memory_format

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order of the labels."""
        return self.data.classes

    @property
    def num_outputs(self) -> int | None:
        """Number of outputs of a network for this task; None if it does not follow from the data."""
        return len(self.classes) if getattr(self.options, "output_kind", None) in COUNTED else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the data for readers of the results."""
        return self.data.notes

    def example(self) -> torch.Tensor:
        """Return float32 zeros [1, channels, height, width]."""
        return self.data.example()

    def batches(self, split: Split) -> Iterable[Batch]:
        """Return the batches of a split; see `TaskData.batches`.

        Raises:
            UnknownName: there is no such split.
        """
        return self.data.batches(split)

    def called(self, model: nn.Module, batch: Batch) -> Any:
        """Return what a network gives for the images of a batch, moved to its device."""
        return model(images_for(model, batch, self.data.settings))

    @abc.abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """See `edakari.core.protocols.Task`."""

    @abc.abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor]:
        """See `edakari.core.protocols.Task`."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """See `edakari.core.protocols.Task`."""

    def pictures(self, images: torch.Tensor) -> torch.Tensor:
        """Return normalised images [N, C, H, W] as pixels in 0 to 1."""
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in self.data.normalization)
        return (images.cpu() * std + mean).clamp(0, 1)


def class_logits(outputs: Any, classes: Sequence[str]) -> torch.Tensor:
    """Return the logits [N, classes] of a network's outputs.

    Raises:
        DataError: the network gives something else, or has another number of outputs than there are classes.
    """
    if not isinstance(outputs, torch.Tensor) or outputs.shape[1:] != (len(classes),):
        found = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise DataError(
            f"the network gives {found} for a batch, but the data has {len(classes)} classes; build it with "
            f"num_classes={len(classes)}"
        )
    return outputs
