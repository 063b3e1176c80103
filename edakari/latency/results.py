"""What a run finds out about the latency of its budget: before anything is pruned, and when it was met."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import MinLen

from edakari.core.settings import Count, Whole
from edakari.errors import SettingsError
from edakari.latency.budget_loop import LoopRound
from edakari.latency.table import Fit, Key
from edakari.latency.timing import Timing

__all__ = ["MetLatency", "PlannedLatency"]


@dc.dataclass(frozen=True, kw_only=True)
class PlannedLatency:
    """What was measured of the dense network before anything is pruned.

    Args:
        key: the hardware, the runtime and its settings.
        batch: images per call.
        table: path of the table of layers.
        dense: the dense network's latency.
        fit: of the predictions to networks that were timed whole; None in a runtime that only times whole networks.
        details: of filling the table and fitting the predictions.
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
    """How the budget's latency was met.

    Args:
        limit_ms: what the budget allows.
        predicted_ms: latency of the plan before anything of it was measured.
        rounds: networks that were measured, in order.
        chosen_round: place among them of the plan's network.
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
