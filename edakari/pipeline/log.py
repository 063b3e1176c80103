"""The log of a method, which survives an interruption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edakari.core.protocols import Hook

__all__ = ["KeepLog", "logged"]


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


def logged(stage: str, figures: Mapping[str, float]) -> dict[str, Any]:
    """A line of a method's log; figures that are not finite, which JSON cannot hold, go into its text."""
    wrong = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    text = f"{stage} ({', '.join(wrong)})" if wrong else stage
    return {"stage": text, **{name: value for name, value in figures.items() if math.isfinite(value)}}
