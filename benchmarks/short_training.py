"""Short trainings, alone or with fixed masks of weights; the benchmarks of tickets share them."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.protocols import Batch, Schedule, Task
from edakari.methods.tickets.fixed_masks import FixedMasks
from edakari.tasks import DataSettings, task_from_settings
from edakari.train import FitSettings, fit, task_objective
from edakari.train.statistics import recalibrate


@dc.dataclass(frozen=True)
class Part:
    """The first batches of each epoch, which is in a new order each time."""

    batches: Any
    steps: int

    def __len__(self) -> int:
        return min(self.steps, len(self.batches))

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(iter(self.batches), len(self))

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)


class ShortTask:
    """A task with short epochs."""

    def __init__(self, task: Task, steps: int) -> None:
        self.task, self.steps = task, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def batches(self, split: Any) -> Iterable[Batch]:
        batches = self.task.batches(split)
        return Part(batches, self.steps) if split == "train" else batches


def short_task(seed: int, steps: int, batch: int, **data: Any) -> Any:
    """A task whose epochs have so many batches of so many examples; `data` are other settings of its data."""
    settings = DataSettings(
        batch_size=batch, seed=seed, calibration_size=10 * batch, memory_format="channels_last", **data
    )
    return ShortTask(task_from_settings(settings, seed), steps)


def schedule(epochs: int, lr: float) -> Schedule:
    return Schedule(epochs=epochs, lr=lr, weight_decay=0.0, l2=1e-4)


def tuned(
    model: nn.Module, masks: Mapping[str, torch.Tensor], task: Any, schedule: Schedule, seed: int
) -> dict[str, float]:
    """Metrics of a network after it was trained in place, with masks that do not change."""
    model.to(memory_format=torch.channels_last).train()
    fit(
        model,
        task_objective(task),
        task.batches("train"),
        schedule,
        hooks=[FixedMasks(model, masks)],
        settings=FitSettings(seed=seed, progress=False),
    )
    judged = recalibrate(model.eval(), task.batches("calibration"))  # the batch norms of the supernet are slow
    return {name: float(value) for name, value in task.evaluate(judged).items()}
