"""The log of a method, which survives an interruption."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.protocols import Batch, Fit, Hook, Objective, Schedule

__all__ = ["logged", "with_log"]


class KeepLog(Hook):
    """Keeps what is logged during a training in its checkpoints; run state.

    A training that goes on from a checkpoint does not log again what came before it.

    Args:
        log: entries of plain values; grows while the training runs.
    """

    def __init__(self, log: list[dict[str, Any]]) -> None:
        self.log, self.start = log, len(log)

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        return {"entries": self.log[self.start :]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self.log[self.start :] = state["entries"]


def with_log(fit: Fit, log: list[dict[str, Any]]) -> Fit:
    """The same way to train, whose checkpoints keep what is logged meanwhile."""

    def bound(
        model: nn.Module,
        objective: Objective,
        schedule: Schedule,
        *,
        hooks: Sequence[Hook] = (),
        params: Sequence[torch.Tensor] | None = None,
        batches: Iterable[Batch] | None = None,
    ) -> None:
        fit(model, objective, schedule, hooks=[*hooks, KeepLog(log)], params=params, batches=batches)

    return bound


def logged(stage: str, figures: Mapping[str, float]) -> dict[str, Any]:
    """A line of a method's log; figures that are not finite, which JSON cannot hold, go into its text."""
    wrong = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    text = f"{stage} ({', '.join(wrong)})" if wrong else stage
    return {"stage": text, **{name: value for name, value in figures.items() if math.isfinite(value)}}
