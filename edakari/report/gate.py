"""Conditions on the figures of a run, such as `top1_drop>1`, for continuous integration."""

from __future__ import annotations

import dataclasses as dc
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edakari.core.budget import LATENCY, SCALES, TIMES, UNITS
from edakari.errors import RunFolderError, SettingsError, UnknownName
from edakari.report.formatting import is_share
from edakari.report.speeds import speeds
from edakari.report.verdict import verdict

__all__ = ["Condition", "figures_of", "holding"]

CONDITION = re.compile(
    r"\s*([A-Za-z_][\w.@\-]*)\s*(<=|>=|<|>)\s*(-?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(%|[A-Za-z]*)\s*"
)
RELATIONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
PERCENT = {"": 1.0, "%": 1.0}
POINTS = {"": 1.0, "points": 1.0}
PLAIN = {"": 1.0}


@dc.dataclass(frozen=True)
class Figure:
    """A value of a run that conditions can name.

    Args:
        value: the value.
        scales: factor of each suffix that a limit may have.
        unit: suffix with which the value is shown.
        dense: value of the dense network, of which a limit in % is a fraction; None where % is no fraction of it.
    """

    value: float
    scales: Mapping[str, float]
    unit: str
    dense: float | None = None


@dc.dataclass(frozen=True)
class Condition:
    """A comparison of a figure with a limit.

    Args:
        name: name of the figure.
        relation: `<`, `<=`, `>` or `>=`.
        limit: the number, in the unit of the suffix.
        suffix: unit of the number, "%" or empty.
    """

    name: str
    relation: str
    limit: float
    suffix: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition such as `top1_drop>1`, `macs>50%` or `latency>12ms`.

        Raises:
            SettingsError: the text is no condition.
        """
        found = CONDITION.fullmatch(text)
        if found is None:
            raise SettingsError(f"cannot read the condition {text.strip()!r}; write it as 'top1_drop>1' or 'macs>50%'")
        name, relation, limit, suffix = found.groups()
        return cls(name, relation, float(limit), suffix)

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.limit:g}{self.suffix}"

    def failure(self, figures: Mapping[str, Figure]) -> str:
        """Return a sentence with the figure if the condition holds, otherwise an empty text.

        Args:
            figures: figures of the run by name.

        Raises:
            UnknownName: the run has no such figure.
            SettingsError: the figure has another unit.
        """
        if self.name not in figures:
            raise UnknownName("figure of this run", self.name, figures)
        figure = figures[self.name]
        value, limit, unit = figure.value, self.limit, figure.unit
        if self.suffix == "%" and figure.dense is not None:
            value, unit = value / figure.dense * 100, " % of dense"
        elif self.suffix.lower() in figure.scales:
            limit *= figure.scales[self.suffix.lower()]
        else:
            known = [suffix or "none" for suffix in (*figure.scales, *(["%"] if figure.dense is not None else []))]
            found = repr(self.suffix) if self.suffix else "no suffix"
            raise SettingsError(f"condition '{self}': {self.name} has a suffix of {', '.join(known)}, found {found}")
        return f"{self.name} is {value:.6g}{unit}, and {self} holds" if RELATIONS[self.relation](value, limit) else ""


def holding(report: Mapping[str, Any], conditions: str) -> list[str]:
    """Return a sentence for each condition that holds for a run.

    Args:
        report: the report from `collect`.
        conditions: conditions, separated by commas. See `figures_of` for the names.

    Raises:
        SettingsError: a condition cannot be read, or has a wrong unit.
        UnknownName: the run has no such figure.
        RunFolderError: the run is not finished.
    """
    if not report["finished"]:
        raise RunFolderError(f"the run is not finished, so {conditions!r} cannot be judged; resume it first")
    figures = figures_of(report)
    failures = [Condition.parse(text).failure(figures) for text in conditions.split(",")]
    return [failure for failure in failures if failure]


def figures_of(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures of a run's finished network that conditions can name.

    - each metric, such as `top1` (fractions need a limit in %), and `top1_drop`, how much lower it is than that of the
      dense network, in points;
    - each cost, such as `macs`, and `size` in bytes; `%` is of the dense network;
    - `latency` of the head of the report, `latency.RUNTIME`, and `speedup` and `speedup.RUNTIME`;
    - `budget_excess`, how far the worst term of the budget is missed, in per cent of its limit.

    Args:
        report: the report from `collect`.
    """
    return dict(_figures(report))


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    dense, last = report["networks"][0], report["networks"][-1]
    if dense is last:
        return
    for name, value in last["metrics"].items():
        scale, (scales, unit) = (100.0, ({"%": 1.0}, " %")) if is_share(name) else (1.0, (PLAIN, ""))
        yield name, Figure(value * scale, scales, unit)
        if name != "loss" and name in dense["metrics"]:
            drop = (dense["metrics"][name] - value) * scale
            yield f"{name}_drop", Figure(drop, POINTS if is_share(name) else PLAIN, " points" if is_share(name) else "")
    for name, value in {**last["costs"], "size": last["bytes"]}.items():
        unit, scales, _ = UNITS.get(name, ("", SCALES, ""))
        yield name, Figure(value, scales, f" {unit}".rstrip(), {**dense["costs"], "size": dense["bytes"]}.get(name))
    for speed in reversed(speeds(report)):  # so that the first one counts, where several have a name
        for name in dict.fromkeys((f".{speed.runtime}", speed.cost.removeprefix(LATENCY), "")):
            yield f"latency{name}", Figure(speed.pruned["median_ms"], TIMES, " ms", speed.dense["median_ms"])
            yield f"speedup{name}", Figure(speed.ratio, PLAIN, " ×")
    found = verdict(report)
    if found.limits:
        yield "budget_excess", Figure(max(limit.excess for limit in found.limits) * 100, PERCENT, " %")
