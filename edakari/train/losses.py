"""Objectives that need only a task: the task's loss, and distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from edakari.core.arguments import require_methods
from edakari.core.comparing import Kept, captured, compare_features, compare_outputs, require_comparable
from edakari.core.feeding import moved_to
from edakari.core.objective import task_objective
from edakari.core.protocols import Batch, Objective, Task
from edakari.errors import SettingsError
from edakari.train.terms import loss_terms

__all__ = ["ComparingTask", "distillation", "outputs_and_terms"]


@runtime_checkable
class ComparingTask(Protocol):
    """A task that compares outputs by itself, because they are not one class distribution per image."""

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Compute the divergence of outputs, divided by the temperature, from a teacher's; mean over images."""


def distillation(
    task: Task,
    teacher: nn.Module | Callable[[Batch], Any],
    weight: float = 0.5,
    temperature: float = 4.0,
    *,
    features: Mapping[str, float] = MappingProxyType({}),
    kept: Kept = MappingProxyType({}),
) -> Objective:
    """Add the divergence from a teacher's outputs and features to the task's loss.

    The term "distillation" compares outputs: as a `ComparingTask` does, or as `edakari.core.comparing.compare_outputs`,
    which is T^2 * KL(teacher || student) of the softmax at temperature T for logits (Hinton et al., 2015, section 2).
    The factor T^2 keeps the scale of its gradient as T changes. The terms "features.MODULE" are mean squared
    differences.

    Args:
        task: the task.
        teacher: the teacher network, which is set to evaluation mode and moved to the student's device; or a function
            from a batch to outputs.
        weight: weight of the comparison of outputs, 0 to 1; the task's terms get the rest.
        temperature: softening temperature T.
        features: modules whose outputs are compared, with the weight of each.
        kept: what a cut kept of the teacher's features, if the student is a cut teacher.

    Raises:
        SettingsError: the weight is outside 0 to 1, or the temperature is not above 0.
        UnknownName: the teacher has no module of a name in `features`.
    """
    call = "distillation(task, teacher)"
    require_methods(call, "task", task, ("outputs", "loss"))
    require_methods(call, "teacher", teacher, ("__call__",))
    if not 0.0 <= weight <= 1.0 or temperature <= 0.0:
        raise SettingsError(
            f"{call}: weight must lie in 0 to 1 and temperature above 0, found {weight=}, {temperature=}"
        )
    with captured(teacher, features):  # names of modules are wrong now, not in the first step
        pass

    def objective(model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        aims, theirs = _aims(task, teacher, model, batch, features)
        if weight > 0 and not isinstance(task, ComparingTask):
            require_comparable(aims)
        with captured(model, features) as own:
            outputs, terms = outputs_and_terms(task, model, batch)
        found = {name: (1.0 - weight) * term for name, term in terms.items()}
        if weight > 0:
            outputs = task.outputs(model, batch) if outputs is None else outputs
            found["distillation"] = weight * _divergence(task, outputs, aims, temperature)
        return {**found, **compare_features(own, theirs, features, kept)}

    return objective


def outputs_and_terms(task: Task, model: nn.Module, batch: Batch) -> tuple[Any, Mapping[str, torch.Tensor]]:
    """Compute the terms of a task's loss, by its own objective if it has one.

    Args:
        task: the task.
        model: the network.
        batch: the batch.

    Returns:
        The outputs, None if the forward pass of the loss does not give them; and the terms.
    """
    both: Any = getattr(task, "outputs_and_terms", None)
    if callable(both):
        outputs, terms = both(model, batch)
        return outputs, loss_terms(terms)
    if callable(getattr(task, "objective", None)):
        return None, loss_terms(task_objective(task)(model, batch))
    outputs = task.outputs(model, batch)
    return outputs, loss_terms(task.loss(outputs, batch))


def _aims(
    task: Task, teacher: Any, model: nn.Module, batch: Batch, features: Iterable[str]
) -> tuple[Any, Mapping[str, list[torch.Tensor]]]:
    """Outputs and features of the teacher."""
    with torch.no_grad(), captured(teacher, features) as seen:
        if not isinstance(teacher, nn.Module):
            return teacher(moved_to(model, batch)), seen
        device = next((parameter.device for parameter in model.parameters()), None)
        if device is not None:
            teacher.to(device)
        return task.outputs(teacher.eval(), batch), seen


def _divergence(task: Task, outputs: Any, aims: Any, temperature: float) -> torch.Tensor:
    if isinstance(task, ComparingTask):
        return task.divergence(outputs, aims, temperature) * temperature**2
    return compare_outputs(outputs, aims, temperature)
