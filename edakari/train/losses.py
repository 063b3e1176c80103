"""Objectives that need only a task: the task's loss, and distillation."""

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
    """A task that compares outputs by itself, because they are not one class distribution per image."""

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Compute the divergence of softened outputs from a teacher's, averaged over images."""


def distillation(task: Task, teacher: nn.Module, weight: float = 0.5, temperature: float = 4.0) -> Objective:
    """Mix the task's loss with the divergence from a teacher's softened outputs (Hinton et al., 2015, section 2).

    The term "distillation" is T^2 * KL(teacher || student) of the softmax at temperature T, averaged over the batch.
    The factor T^2 keeps the scale of its gradient as T changes.

    Args:
        task: the task; its outputs are logits [N, classes], or it is a `ComparingTask`.
        teacher: the teacher network; it is set to evaluation mode and moved to the student's device.
        weight: weight of the distillation term, 0 to 1; the task's terms get the rest.
        temperature: softening temperature T.

    Raises:
        SettingsError: the weight is outside 0 to 1, or the temperature is not above 0.
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
