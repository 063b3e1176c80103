"""The loss of a task as a function of a network and a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edakari.core.arguments import require_methods
from edakari.core.protocols import Batch, Objective, Task

__all__ = ["task_objective"]


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
