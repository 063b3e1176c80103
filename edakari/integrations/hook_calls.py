"""Calls of hooks in a training that another library's trainer runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.protocols import Hook, StepState
from edakari.core.wrappers import check_whole
from edakari.train.fits import mean_of

__all__ = ["HookCalls"]


class HookCalls:
    """Calls hooks, and counts steps and epochs for them; run state.

    Args:
        model: the network that hooks are told of.
        hooks: the hooks, in order.
        averages: objects with which the training averages weights.

    Raises:
        ModelError: the network is sharded among processes.
    """

    def __init__(self, model: nn.Module, hooks: Sequence[Hook], averages: tuple[Any, ...] = ()) -> None:
        check_whole(model)
        self.model, self.hooks, self.averages = model, hooks, averages
        self.step, self.epoch, self.begun = 0, 0, False
        self._losses: list[torch.Tensor] = []
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Begin a step, unless it has begun."""
        if self.begun:
            return
        self.begun, self._losses = True, []
        state = self._state(optimizer, None)
        for hook in self.hooks:
            hook.before_step(state)

    def add(self, loss: torch.Tensor) -> None:
        """Add a batch's part of the step's loss."""
        self._losses.append(loss.detach())

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """End a step, while the gradients are still there."""
        loss = torch.stack(self._losses).sum() if self._losses else None
        state = self._state(optimizer, loss)
        for hook in self.hooks:
            hook.after_step(state)
        if loss is not None:
            # Apple's devices have no float64
            exact = loss.float() if loss.device.type == "mps" else loss.double()
            self._sum, self._count = self._sum.to(exact) + exact, self._count + 1
        self.step, self.begun = self.step + 1, False

    def mean(self) -> float | None:
        """Return the mean loss of this epoch's steps, over all processes; None if no loss was added."""
        return mean_of(self._sum / self._count) if self._count else None

    def end_epoch(self, optimizer: torch.optim.Optimizer) -> None:
        """End an epoch."""
        state = self._state(optimizer, self.mean())
        for hook in self.hooks:
            hook.end_epoch(state)
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0
        self.epoch += 1

    def _state(self, optimizer: torch.optim.Optimizer, loss: float | torch.Tensor | None) -> StepState:
        return StepState(self.model, optimizer, self.step, self.epoch, loss, self.averages)
