"""Charts of a search: cost against reward, and the group that each step cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edakari.core.optional import needs
from edakari.report.charts import Point, stations
from edakari.report.formatting import COSTS

with needs("report", "a report"):
    from markupsafe import Markup

__all__ = ["trail"]


def trail(report: Mapping[str, Any]) -> list[Markup]:
    """Draw the charts of a method that logs steps `step N: GROUP` with a "reward" and a "width"; none for others.

    Args:
        report: the report from `collect`. If the search ran several times, the last one is shown.
    """
    steps = _last_search(report["log"])
    if len(steps) < 2:
        return []
    names = [entry["stage"].partition(": ")[2] for entry in steps]
    hints = [f"{entry['stage']} to {entry['width']:g}, reward {entry['reward']:.4g}" for entry in steps]
    charts = []
    costs = [cost for cost in (*report["limits"], *COSTS, "latency") if cost in steps[0]]
    if costs:
        whole = report["networks"][0]["costs"].get(costs[0])
        title = f"{COSTS.get(costs[0], costs[0])}, {'% of dense' if whole else 'ms'}"
        shares = [entry[costs[0]] / whole * 100 if whole else entry[costs[0]] for entry in steps]
        charts.append(
            stations(_points(shares, [entry["reward"] for entry in steps], hints), title, "reward", joined=True)
        )
    order = {group["name"]: index for index, group in enumerate(report["groups"], 1)}
    rows = [float(order.get(name, 0)) for name in names]
    numbers = [float(number) for number in range(1, len(steps) + 1)]
    charts.append(stations(_points(numbers, rows, hints), "step", "group that was cut", joined=False))
    return charts


def _points(across: Sequence[float], up: Sequence[float], hints: Sequence[str]) -> list[Point]:
    return [Point(x, y, hint, "pruned") for x, y, hint in zip(across, up, hints, strict=True)]


def _last_search(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    steps = [entry for entry in log if {"reward", "width"} <= entry.keys() and entry["stage"].startswith("step ")]
    starts = [index for index, entry in enumerate(steps) if entry["stage"].startswith("step 1:")]
    return steps[starts[-1] :] if starts else []
