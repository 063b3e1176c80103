"""Objectives that need no more than a task: its own loss, and distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional

from edakari.core.arguments import require, require_methods
from edakari.core.protocols import Batch, Objective, Task
from edakari.errors import SettingsError

__all__ = ["ComparingTask", "distillation"]


@runtime_checkable
class ComparingTask(Protocol):
    """A task whose outputs are not one distribution over classes for each image."""

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """How far outputs are from a teacher's, both softened, mean over images."""


def distillation(task: Task, teacher: nn.Module, weight: float = 0.5, temperature: float = 4.0) -> Objective:
    """The task's loss mixed with the divergence from a teacher's softened outputs (Hinton et al., 2015, section 2).

    The term "distillation" is T^2 KL(teacher || student) of the softmax at temperature T, mean over the batch; the
    square keeps the size of its gradient as T changes.

    Args:
        task: gives the outputs, logits [N, classes], and the loss; a `ComparingTask` says itself how outputs differ.
        teacher: the network to follow; it is put in evaluation mode and moves to where the student is.
        weight: share of the distillation; the task's terms have the rest.
        temperature: T.

    Raises:
        SettingsError: the weight is outside of 0 to 1, or the temperature is not above 0.
    """
    require_methods("distillation(task, teacher)", "task", task, ("outputs", "loss"))
    require("distillation(task, teacher)", teacher=(teacher, nn.Module))
    if not 0.0 <= weight <= 1.0 or temperature <= 0.0:
        raise SettingsError(
            f"distillation(task, teacher): weight must lie in 0 to 1 and temperature above 0, found {weight=}, "
            f"{temperature=}"
        )

    def objective(model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        outputs = task.outputs(model, batch)
        teacher.to(outputs.device).eval()
        with torch.no_grad():
            aims = task.outputs(teacher, batch)
        if isinstance(task, ComparingTask):
            divergence = task.divergence(outputs, aims, temperature) * temperature**2
        else:
            student = functional.log_softmax(outputs.float() / temperature, dim=-1)
            aim = functional.log_softmax(aims.float() / temperature, dim=-1)
            divergence = functional.kl_div(student, aim, log_target=True, reduction="batchmean") * temperature**2
        terms = {name: (1.0 - weight) * term for name, term in task.loss(outputs, batch).items()}
        return {**terms, "distillation": weight * divergence}

    return objective
