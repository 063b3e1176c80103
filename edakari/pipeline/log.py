"""The log of a method, which survives an interruption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edakari.core.protocols import Hook

__all__ = ["KeepLog", "logged"]


class KeepLog(Hook):
    """Stores log entries of a training in its checkpoints; run state.

    A resumed training does not log again what came before its checkpoint.

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
    """Make a line of a method's log; values that are not finite, which JSON cannot hold, become a part of its text."""
    wrong = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    text = f"{stage} ({', '.join(wrong)})" if wrong else stage
    return {"stage": text, **{name: value for name, value in figures.items() if math.isfinite(value)}}
