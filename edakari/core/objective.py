"""The loss of a task as a function of a network and a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edakari.core.arguments import require_methods
from edakari.core.protocols import Batch, Objective, Task
from edakari.errors import DataError

__all__ = ["can_train", "task_objective"]


def task_objective(task: Task) -> Objective:
    """Return a task's loss as an objective: its method `objective` if it has one, else the loss of its outputs."""
    own = getattr(task, "objective", None)
    if callable(own):
        found: Objective = own
        return found
    require_methods("task_objective(task)", "task", task, ("outputs", "loss"))

    def objective(model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        return task.loss(task.outputs(model, batch), batch)

    return objective


def can_train(task: Task) -> bool:
    """Whether a task has batches to train on, whose number is known, and a loss.

    A task without a loss says so by an attribute `has_loss`.
    """
    if not getattr(task, "has_loss", True):
        return False
    try:
        return len(task.batches("train")) > 0  # type: ignore[arg-type]
    except (DataError, TypeError):
        return False
