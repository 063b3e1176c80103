"""Latencies of the dense and the finished network by runtime, the budget's runtime first."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

from edakari.core.steady import LATENCY

__all__ = ["Speed", "speeds"]

Values = Mapping[str, Any]


@dc.dataclass(frozen=True)
class Speed:
    """Latencies of both networks in one runtime, timed alternately.

    Args:
        runtime: name of the runtime.
        dense: timing of the dense network, as plain values.
        pruned: timing of the finished network, or of the pruned one until that is measured.
        asked: the entry of the budget's latency; None if the budget does not limit this latency.
        cost: name of the latency in the budget.
    """

    runtime: str
    dense: Values
    pruned: Values
    asked: Values | None
    cost: str = LATENCY

    @property
    def title(self) -> str:
        """The runtime, after the name of one of several latencies."""
        return self.runtime if self.cost == LATENCY else f"{self.cost.partition('@')[2]}, {self.runtime}"

    @property
    def ratio(self) -> float:
        """How many times as fast the pruned network is."""
        ratio: float = self.dense["median_ms"] / self.pruned["median_ms"]
        return ratio


def speeds(report: Values) -> list[Speed]:
    """Return the latencies that were measured: those of the budget, then others, a runtime that serves files first.

    A runtime that was timed again as the budget asks, with its batch and threads, appears once, with the budget's
    timing.

    Args:
        report: the report from `collect`.
    """
    asked = [
        Speed(each["runtime"], each["dense"], each["measured"], each, cost)
        for cost, each in report.get("latencies", {}).items()  # stored reports of before several latencies lack it
        if each["measured"]
    ]
    here = report["measured"]
    known = {
        (speed.runtime, speed.asked["batch"], speed.asked["settings"]["threads"]) for speed in asked if speed.asked
    }
    before, after = report["networks"][0]["latency"], report["networks"][-1]["latency"]
    names = sorted(before, key=lambda name: name == "torch")
    others = [
        Speed(name, before[name], after[name], None)
        for name in names
        if name in after and (name, here["batch"], here["threads"]) not in known
    ]
    return [*asked, *others]
