"""The table of a comparison: one row for each setting, over its seeds."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

from edakari.core.budget import is_latency
from edakari.sweeps.axes import SEED
from edakari.sweeps.entries import Entry
from edakari.sweeps.statistics import Difference, Spread, paired, spread_of

__all__ = ["Failure", "Results", "Row", "results_of"]

UNIMPORTANT = ("measure", "export", "device", "quantize", "train", "finetune.bank.folder", "latency.cache")
"""Settings that change neither the network nor its training; they tell no two rows apart."""
COSTS = ("macs", "params")
TOLERANCE = 0.01
"""Relative difference of the numbers of images seen above which a comparison is marked as unfair."""


@dc.dataclass(frozen=True)
class Failure:
    """A run that failed.

    Args:
        text: its settings.
        error: why.
    """

    text: str
    error: str


@dc.dataclass(frozen=True)
class Row:
    """All runs of one setting.

    Args:
        settings: the keys in which rows differ, with their values as texts.
        budget: budget of the runs.
        entries: the runs, one for each seed.
        metric: main metric over the seeds; None without one.
        drop: what the main metric lost against the unpruned network; None without one.
        costs: costs over the seeds, by name.
        shares: costs as fractions of the unpruned network's, over the seeds, by name.
        examples: training examples of each run; None if they are unknown.
        seconds: mean duration of a run, s.
        against_best: difference of the metric to the best row of the same budget, paired by seeds; None for that row,
            and for rows without a common seed.
        front: costs for which no other row has a better metric and a lower cost.
        fair: whether it saw as many training examples as the best row of the same budget.
    """

    settings: Mapping[str, str]
    budget: str
    entries: tuple[Entry, ...]
    metric: Spread | None
    drop: Spread | None
    costs: Mapping[str, Spread]
    shares: Mapping[str, Spread]
    examples: float | None
    seconds: float
    against_best: Difference | None = None
    front: tuple[str, ...] = ()
    fair: bool = True

    @property
    def name(self) -> str:
        """The row in words."""
        return ", ".join(self.settings.values()) or "all runs"

    def by_seed(self, metric: str) -> dict[int, float]:
        """A metric by seed."""
        return {each.seed: each.metrics[metric] for each in self.entries if metric in each.metrics}


@dc.dataclass(frozen=True)
class Results:
    """A comparison of runs.

    Args:
        name: its name.
        metric: name of the main metric; empty if the runs have none in common.
        keys: dotted keys in which rows differ.
        rows: rows, best first within each budget.
        failures: runs that failed.
        missing: number of runs that are not finished.
        pruned: number of trials that the pruner ended early.
    """

    name: str
    metric: str
    keys: tuple[str, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()
    missing: int = 0
    pruned: int = 0

    @property
    def costs(self) -> tuple[str, ...]:
        """Costs that every row has: the usual ones, and latencies."""
        names = (*COSTS, *filter(is_latency, self.rows[0].costs)) if self.rows else ()
        return tuple(name for name in names if all(name in row.costs for row in self.rows))

    def best(self, cost: str | None) -> Row | None:
        """Return the row of the lowest cost, or of the best metric.

        Args:
            cost: cost to go by; None goes by the metric.
        """
        if cost is not None:
            return min(
                (row for row in self.rows if cost in row.costs), key=lambda row: row.costs[cost].mean, default=None
            )
        known = [(row.metric.mean, row) for row in self.rows if row.metric is not None]
        return max(known, key=lambda each: each[0], default=(0.0, None))[1]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All runs."""
        return tuple(entry for row in self.rows for entry in row.entries)


def results_of(
    name: str,
    entries: Sequence[Entry],
    *,
    failures: Sequence[Failure] = (),
    missing: int = 0,
    pruned: int = 0,
    metric: str | None = None,
    keys: Sequence[str] | None = None,
) -> Results:
    """Group runs that differ by their seed alone, and compare the groups.

    Args:
        name: name of the comparison.
        entries: finished runs.
        failures: runs that failed.
        missing: number of runs that are not finished.
        pruned: number of trials that the pruner ended early.
        metric: metric to judge by, of which larger is better; None is the main metric of the runs.
        keys: settings that tell rows apart; None finds them.
    """
    metrics = {metric or entry.metric for entry in entries}
    metric = metrics.pop() if len(metrics) == 1 else ""
    keys = _differing(entries) if keys is None else tuple(keys)
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(_text(entry.settings.get(key)) for key in keys), []).append(entry)
    rows = [_row(dict(zip(keys, values, strict=True)), found, metric) for values, found in groups.items()]
    return Results(name, metric, keys, tuple(_fronts(_judged(rows, metric))), tuple(failures), missing, pruned)


def _differing(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Keys in which runs differ; one that says the same as an earlier one is left out, as settings of a method are."""
    names = dict.fromkeys(name for entry in entries for name in entry.settings)
    found: dict[tuple[str, ...], str] = {}
    for name in sorted(names, key=lambda name: (name.count("."), name != "method", name)):
        if name == SEED or any(name == each or name.startswith(f"{each}.") for each in UNIMPORTANT):
            continue
        values = [_text(entry.settings.get(name)) for entry in entries]
        if len(set(values)) > 1:
            found.setdefault(tuple(map(str, map(values.index, values))), name)
    return _needed(tuple(found.values()), entries)


def _needed(keys: tuple[str, ...], entries: Sequence[Entry]) -> tuple[str, ...]:
    """The first keys that tell as many settings apart as all keys do."""
    every = len({tuple(_text(entry.settings.get(key)) for key in keys) for entry in entries})
    chosen: tuple[str, ...] = ()
    for key in keys:
        told = len({tuple(_text(entry.settings.get(each)) for each in chosen) for entry in entries})
        if told == every:
            break
        more = len({tuple(_text(entry.settings.get(each)) for each in (*chosen, key)) for entry in entries})
        chosen = (*chosen, key) if more > told else chosen
    return chosen


def _text(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else "–"
        if value is None
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _row(settings: Mapping[str, str], entries: Sequence[Entry], metric: str) -> Row:
    ordered = tuple(sorted(entries, key=lambda entry: (entry.seed, entry.folder)))
    known = [entry for entry in ordered if metric in entry.metrics]
    lost = [entry.dense[metric] - entry.metrics[metric] for entry in known if metric in entry.dense]
    names = [name for name in ordered[0].costs if all(name in entry.costs for entry in ordered)]
    shares = {name: [share for entry in ordered if (share := entry.share(name)) is not None] for name in names}
    examples = [entry.examples for entry in ordered if entry.examples is not None]
    return Row(
        settings=settings,
        budget=ordered[0].budget,
        entries=ordered,
        metric=spread_of([entry.metrics[metric] for entry in known]) if known else None,
        drop=spread_of(lost) if lost else None,
        costs={name: spread_of([entry.costs[name] for entry in ordered]) for name in names},
        shares={name: spread_of(values) for name, values in shares.items() if values},
        examples=spread_of(examples).mean if examples else None,
        seconds=spread_of([entry.seconds for entry in ordered]).mean,
    )


def _judged(rows: Sequence[Row], metric: str) -> list[Row]:
    """Rows by budget, the best first, each compared with the best one of its budget."""
    found = []
    for budget in dict.fromkeys(row.budget for row in rows):
        block = sorted(
            (row for row in rows if row.budget == budget),
            key=lambda row: -row.metric.mean if row.metric else float("inf"),
        )
        best = block[0]
        found.append(best)
        for row in block[1:]:
            unlike = None not in (row.examples, best.examples) and (
                abs((row.examples or 0) - (best.examples or 0)) > TOLERANCE * (best.examples or 1)
            )
            found.append(
                dc.replace(row, against_best=paired(row.by_seed(metric), best.by_seed(metric)), fair=not unlike)
            )
    return found


def _fronts(rows: Sequence[Row]) -> list[Row]:
    """Mark the rows of each cost's Pareto front."""

    def beaten(row: Row, cost: str) -> bool:
        assert row.metric is not None
        ours = row.metric.mean, -row.costs[cost].mean
        return any(
            other.metric is not None
            and cost in other.costs
            and (theirs := (other.metric.mean, -other.costs[cost].mean)) != ours
            and theirs[0] >= ours[0]
            and theirs[1] >= ours[1]
            for other in rows
        )

    return [
        dc.replace(row, front=tuple(cost for cost in row.costs if row.metric is not None and not beaten(row, cost)))
        for row in rows
    ]
