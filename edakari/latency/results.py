"""Results of a run about the latency in its budget: before the pruning, and after the budget was met."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import MinLen

from edakari.core.settings import Count, Whole
from edakari.errors import SettingsError
from edakari.latency.budget_loop import LoopRound
from edakari.latency.table import Fit, Key
from edakari.latency.target import TimedPair
from edakari.latency.timing import Timing

__all__ = ["FinishedLatency", "MetLatency", "PlannedLatency"]


@dc.dataclass(frozen=True, kw_only=True)
class PlannedLatency:
    """Measurements of the dense network before anything is pruned.

    Args:
        key: hardware, runtime and settings.
        batch: number of images per call.
        table: path of the latency table.
        dense: latency of the dense network.
        fit: fit of the predictions to measured networks; None in a runtime that only times whole networks.
        details: details of filling the table and fitting the predictions.
    """

    key: Key
    batch: Count
    table: str
    dense: Timing
    fit: Fit | None
    details: Mapping[str, Any] = dc.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.key.settings.get("threads"), int):
            raise SettingsError("the settings of its runtime name no threads")


@dc.dataclass(frozen=True, kw_only=True)
class MetLatency:
    """How the closed loop met the latency budget.

    Args:
        limit_ms: largest latency that the budget allows, ms.
        predicted_ms: predicted latency of the plan before anything was measured, ms.
        rounds: measured networks, in order.
        chosen_round: index of the round of the plan's network.
    """

    limit_ms: float
    predicted_ms: float
    rounds: Annotated[tuple[LoopRound, ...], MinLen(1)]
    chosen_round: Whole

    def __post_init__(self) -> None:
        if self.chosen_round >= len(self.rounds):
            raise SettingsError(f"its chosen_round is {self.chosen_round} of {len(self.rounds)} rounds")

    @property
    def chosen(self) -> LoopRound:
        """The round of the plan's network."""
        return self.rounds[self.chosen_round]


@dc.dataclass(frozen=True, kw_only=True)
class FinishedLatency:
    """A latency of the finished network.

    Args:
        timing: latencies of the dense and the finished network, timed alternately.
        relative_error: distance of the finished network's latency above the limit, as a fraction of the limit.
        other_calls: latency of the finished network as a fraction of the dense one's, where calls follow each other
            otherwise, by the kind of calls; empty where that is not cheap to measure.
    """

    timing: TimedPair
    relative_error: float
    other_calls: Mapping[str, float] = dc.field(default_factory=dict)
