"""Optimizers, weight decay, and the learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from edakari.core.protocols import Schedule
from edakari.errors import UnknownName

__all__ = ["learning_rate", "make_optimizer", "parameter_groups", "set_learning_rate"]


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
        UnknownName: there is no such optimizer.
    """
    groups = parameter_groups(params, schedule)
    if schedule.optimizer == "sgd":
        nesterov = schedule.momentum > 0
        return torch.optim.SGD(groups, schedule.lr, momentum=schedule.momentum, nesterov=nesterov)
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, schedule.lr)
    raise UnknownName("optimizer", schedule.optimizer, ("sgd", "adamw"))


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Compute the learning rate: linear warm-up, then a cosine (Loshchilov & Hutter, 2017, no restarts) or steps.

    Args:
        schedule: peak and final learning rate, fraction of warm-up, or the epochs at which the rate drops.
        step: index of the optimizer step, from 0.
        steps: number of steps of the complete training.
    """
    warm = round(schedule.warmup * steps)
    if step < warm:
        return schedule.lr * (step + 1) / (warm + 1)
    if schedule.drops:
        return schedule.lr * schedule.drop ** sum(step >= round(index * steps) for index in schedule.drops)
    done = (step - warm) / max(1, steps - warm)
    low = schedule.lr * schedule.final_lr
    return low + (schedule.lr - low) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups, in place."""
    for group in optimizer.param_groups:
        group["lr"] = rate
