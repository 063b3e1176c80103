"""A hook that keeps the weights of the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.modes import judging
from edakari.core.processes import Processes
from edakari.core.protocols import Hook, StepState

__all__ = ["KeepBest", "judging"]


class KeepBest(Hook):
    """Keeps the weights of the epoch with the best value of a metric; mutable state of a run.

    If the network has become smaller, it is a different one: then only epochs from there on count.

    Args:
        model: the network whose weights are kept: the trained network or a part of it.
        figure: function that returns the metric after each epoch, with the network in evaluation mode; larger is
            better.
    """

    def __init__(self, model: nn.Module, figure: Callable[[], float]) -> None:
        self.model, self.figure = model, figure
        self.best: float | None = None
        self.epoch = 0
        self.weights: Mapping[str, torch.Tensor] = {}

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        with judging(state.model):
            found = self.figure()
        shapes = [tensor.shape for tensor in self.model.state_dict().values()]
        if self.weights and [tensor.shape for tensor in self.weights.values()] != shapes:
            self.best = None
        if self.best is None or found > self.best:
            self.best, self.epoch = found, state.epoch + 1
            self.weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def restore(self) -> None:
        """Load the best weights into the network on all processes; no effect before the first epoch has ended."""
        if not self.weights:
            return
        self.model.load_state_dict(self.weights)
        Processes.here().equalise_(self.model.state_dict().values())

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        return {"best": self.best, "epoch": self.epoch, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self.best, self.epoch, self.weights = state["best"], int(state["epoch"]), state["weights"]
