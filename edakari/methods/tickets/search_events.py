"""What happened at each event of a search, as data for logs and reports."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EDGES", "SearchEvent", "histogram"]

EDGES: npt.NDArray[np.float64] = np.logspace(-5, 1, 25)
"""Edges of the bins of a histogram of gates, rising; smaller and larger gates are in the first and last bin."""


@dc.dataclass(frozen=True)
class SearchEvent:
    """One event.

    Args:
        epoch: number of epochs so far.
        executed: whether the network was cut: the saving was large enough, or this event met the budget, or was last.
        saving: multiply-accumulates of the units that were dead by the average of their gates.
        macs: multiply-accumulates afterwards.
        rho: strength of the penalty until now, without its warm-up.
        units: number of units of each group afterwards; groups in dropped branches have 0.
        gates: histogram of the gates before the event, see `EDGES`.
        dropped: names of the branches and paths that were dropped at this event.
        left: groups and branches of which constants were left at this event; see `fold_constants`.
    """

    epoch: int
    executed: bool
    saving: float
    macs: float
    rho: float
    units: Mapping[str, int]
    gates: tuple[int, ...]
    dropped: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the event as numbers and texts in dicts and lists."""
        return {
            **dc.asdict(self),
            "units": dict(self.units),
            **{name: list(getattr(self, name)) for name in ("gates", "dropped", "left")},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchEvent:
        """Make an event of what `to_dict` returned."""
        lists = {name: tuple(content[name]) for name in ("gates", "dropped", "left")}
        return cls(**{**content, "units": dict(content["units"]), **lists})

    def figures(self) -> dict[str, float]:
        """Return the numbers for a log."""
        found = {"units": float(sum(self.units.values())), "macs": self.macs, "saving": self.saving, "rho": self.rho}
        counts = {"dropped": len(self.dropped), "left": len(self.left)}
        return {**found, **{name: float(count) for name, count in counts.items() if count}}


def histogram(gates: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Count gates in the bins of `EDGES`.

    Args:
        gates: gate of each unit, float64 [units].
    """
    inside = np.clip(gates, EDGES[0], EDGES[-1])
    return tuple(np.histogram(inside, EDGES)[0].tolist())
