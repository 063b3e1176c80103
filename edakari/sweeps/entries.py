"""What a comparison takes of each run: its settings, metrics, costs and times, as plain values."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Entry", "entry_of", "flattened"]


@dc.dataclass(frozen=True)
class Entry:
    """A finished run.

    Args:
        folder: its run folder.
        settings: its recipe by dotted keys, or the values of a sweep's axes.
        budget: its budget.
        seed: its seed.
        metric: name of its main metric; empty if the task has none.
        metrics: metrics of the finished network.
        dense: metrics of the unpruned network.
        costs: costs of the finished network by name; latencies in ms, if they were measured.
        dense_costs: costs of the unpruned network.
        examples: number of training examples that its trainings took; None if it is unknown.
        seconds: duration of its stages, s.
        random: whether the unpruned network had random weights.
    """

    folder: str
    settings: Mapping[str, Any]
    budget: str
    seed: int
    metric: str
    metrics: Mapping[str, float]
    dense: Mapping[str, float]
    costs: Mapping[str, float]
    dense_costs: Mapping[str, float]
    examples: int | None
    seconds: float
    random: bool

    @property
    def plain(self) -> dict[str, Any]:
        """The entry as plain values, as the queue stores it."""
        return dc.asdict(self)

    def share(self, cost: str) -> float | None:
        """A cost as a fraction of the unpruned network's; None if either is unknown."""
        now, before = self.costs.get(cost), self.dense_costs.get(cost)
        return now / before if now is not None and before else None


def entry_of(
    report: Mapping[str, Any], folder: Path, settings: Mapping[str, Any] | None = None, budget: str | None = None
) -> Entry:
    """Take an entry from the report of a finished run.

    Args:
        report: content of its `report.json`.
        folder: its run folder.
        settings: values of a sweep's axes; None tells the run by its recipe.
        budget: budget that was asked for; None is that of its recipe, which a search may have found.
    """
    dense, last = report["networks"][0], report["networks"][-1]
    before, after = _latencies(report)
    return Entry(
        folder=str(folder),
        settings=flattened(report["recipe"]) if settings is None else settings,
        budget=str(report["recipe"].get("budget") or "") if budget is None else budget,
        seed=int(report["recipe"].get("seed") or 0),
        metric=report["metric"] or "",
        metrics=dict(last["metrics"]),
        dense=dict(dense["metrics"]),
        costs={**last["costs"], "size": last["bytes"], **after},
        dense_costs={**dense["costs"], "size": dense["bytes"], **before},
        examples=report.get("examples"),
        seconds=sum(report["seconds"].values()),
        random=bool(report["random_weights"]) and not report["from_scratch"],
    )


def _latencies(report: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Latencies of the dense and of the finished network, ms: those of the budget, else that of the first runtime."""
    timed = {cost: each for cost, each in report["latencies"].items() if each["measured"]}
    if timed:
        before = {cost: float(each["dense"]["median_ms"]) for cost, each in timed.items()}
        return before, {cost: float(each["measured"]["median_ms"]) for cost, each in timed.items()}
    for runtime, timing in report["networks"][0]["latency"].items():
        found = report["networks"][-1]["latency"].get(runtime)
        if found:
            return {"latency": timing["median_ms"]}, {"latency": found["median_ms"]}
    return {}, {}


def flattened(content: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping by dotted keys; a name of a section stands under the section's own key."""
    if not isinstance(content, Mapping) or not content:
        return {key: content}
    found: dict[str, Any] = {}
    for name, below in content.items():
        inner = key if name == "name" and key else f"{key}.{name}" if key else str(name)
        found.update(flattened(below, inner))
    return found
