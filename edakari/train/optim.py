"""The optimizer of a schedule, and its learning rate at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from edakari.core.curves import CURVES
from edakari.core.protocols import Schedule
from edakari.core.schedule import OPTIMIZERS
from edakari.errors import EdakariError, SettingsError

__all__ = ["align_states_", "check_optimizer", "learning_rate", "make_optimizer", "parameter_groups", "set_rates"]


def parameter_groups(params: Sequence[torch.Tensor], schedule: Schedule) -> list[dict[str, Any]]:
    """Return parameters as groups for an optimizer; only tensors of two or more dimensions get weight decay."""
    groups = [
        {"params": [param for param in params if param.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [param for param in params if param.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(params: Sequence[torch.Tensor], schedule: Schedule) -> torch.optim.Optimizer:
    """Make the optimizer of a schedule; only tensors of two or more dimensions get weight decay.

    Args:
        params: the parameters to train.
        schedule: the optimizer's name and settings.

    Raises:
        SettingsError: the optimizer does not take a setting, cannot be used here, or has no momentum, which the curve
            of the learning rate changes.
    """
    maker = OPTIMIZERS.named(schedule.optimizer)
    try:
        made: torch.optim.Optimizer = maker(parameter_groups(params, schedule), schedule)
    except EdakariError:
        raise
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise SettingsError(f"optimizer: {schedule.optimizer!r} refuses its settings: {error}") from error
    moved = schedule.lr_curve.momentum(0, 1, 1) is not None
    if moved and not all("betas" in group or "momentum" in group for group in made.param_groups):
        name = CURVES.name_of(schedule.lr_curve)
        raise SettingsError(
            f"curve: {name!r} changes the momentum, and optimizer {schedule.optimizer!r} has none; "
            f"set curve: {{name: {name}, momentum_range: null}}"
        )
    return made


def align_states_(optimizer: Any) -> None:
    """Lay the states of an optimizer out in memory like their parameters, in place, as fused optimizers need it."""
    for param, state in optimizer.state.items():
        for name, value in state.items() if isinstance(state, dict) else ():
            alike = isinstance(value, torch.Tensor) and value.shape == param.shape and value.layout == param.layout
            if alike and value.stride() != param.stride():
                state[name] = torch.empty_like(param, dtype=value.dtype, requires_grad=False).copy_(value)


def check_optimizer(schedule: Schedule) -> None:
    """Make the optimizer of a schedule for a weight that nobody trains; see `make_optimizer` for its errors."""
    make_optimizer([torch.nn.Parameter(torch.zeros(1, 1)), torch.nn.Parameter(torch.zeros(1))], schedule)


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Compute the learning rate of a step by the schedule's curve.

    Args:
        schedule: peak learning rate, curve and number of epochs.
        step: index of the optimizer step, from 0.
        steps: number of steps of the complete training.
    """
    return schedule.lr_curve.rate(schedule.lr, step, steps, schedule.epochs)


def set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, steps: int) -> None:
    """Set the learning rate of all parameter groups for a step, and their momentum if the curve changes it, in place.

    Args:
        optimizer: the optimizer.
        schedule: peak learning rate, curve and number of epochs.
        step: index of the optimizer step, from 0.
        steps: number of steps of the complete training.
    """
    rate = learning_rate(schedule, step, steps)
    momentum = schedule.lr_curve.momentum(step, steps, schedule.epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)  # timm's decay by layers
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        elif momentum is not None and "momentum" in group:
            group["momentum"] = momentum
