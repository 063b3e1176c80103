"""The verdict on a run: whether it met its budget, what that did to its metric, and one speed."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping
from typing import Any

from edakari.core.steady import MISS
from edakari.report import formatting
from edakari.report.intervals import difference, wilson
from edakari.report.speeds import Speed, speeds

__all__ = ["Judged", "Limit", "Verdict", "verdict"]

Values = Mapping[str, Any]
BYTES = ("size", "memory")
COUNTED_RIGHT = ("top1", "top5", "accuracy")
"""Metrics that are fractions of independent images, to which an interval of a fraction applies."""
ROUNDING = 1e-9


@dc.dataclass(frozen=True)
class Limit:
    """One term of the budget and what the network reached.

    Args:
        name: name of the cost.
        limit: largest value in the unit of the cost, ms for a latency; smallest fraction for a sparsity.
        reached: value of the network.
        dense: value of the dense network, or None if the limit is no fraction of it.
        title: readable name, with the runtime of a latency.
    """

    name: str
    limit: float
    reached: float
    dense: float | None
    title: str

    @property
    def excess(self) -> float:
        """How far the network misses the limit, as a fraction of it; 0 or less where it meets it."""
        return self.limit / max(self.reached, 1e-12) - 1 if self.name == "sparsity" else self.reached / self.limit - 1

    @property
    def met(self) -> bool:
        """Whether the network is within the limit; a latency may exceed it as far as timings are uncertain."""
        return self.excess <= (MISS if self.name == "latency" else ROUNDING)

    @property
    def text(self) -> str:
        """The reached value and the limit, in the unit of the budget."""
        least = "at least" if self.name == "sparsity" else "at most"
        return f"{self.title} {self._figure(self.reached)}, asked for {least} {self._figure(self.limit)}"

    def _figure(self, value: float) -> str:
        if self.name == "sparsity":
            return f"{value * 100:.4g} %"
        if self.dense is not None:
            return f"{value / self.dense * 100:.1f} % of dense"
        if self.name == "latency":
            return f"{value:.3g} ms"
        return formatting.size(value) if self.name in BYTES else formatting.cost(value)


@dc.dataclass(frozen=True)
class Judged:
    """The main metric before and after.

    Args:
        name: name of the metric.
        before: value of the dense network.
        after: value of the finished network.
        images: number of validation images, or None if it is unknown.
        interval: 95 % interval of the value after, or None where no simple one applies.
        change: 95 % interval of the difference on the same images, or None if answers were not compared.
        compared: number of images of that interval.
    """

    name: str
    before: float
    after: float
    images: int | None
    interval: tuple[float, float] | None
    change: tuple[float, float] | None
    compared: int

    @property
    def text(self) -> str:
        """The metric before and after."""
        values = f"{formatting.metric(self.name, self.before)} → {formatting.metric(self.name, self.after)}"
        title = formatting.title_of(self.name)
        return (
            f"{title[:1].upper()}{title[1:]} {values} ({formatting.metric_change(self.name, self.before, self.after)})"
        )

    @property
    def note(self) -> str:
        """How sure that is."""
        images = f"{self.images:,} validation images" if self.images else "the validation data"
        if self.change:
            ends = " to ".join(f"{end * 100:+.2f}" for end in self.change).replace("-", "−")
            which = f"the same {images}" if self.compared == self.images else f"{self.compared:,} of {images}"
            return f"95 % interval of the change {ends} points, on {which}"
        if self.interval:
            low, high = self.interval
            return f"95 % interval {low * 100:.2f} to {high * 100:.2f} %, on {images}"
        why = "the number of images is not known" if self.name in COUNTED_RIGHT else "it is no fraction of images"
        return f"on {images}; no interval: {why}"


@dc.dataclass(frozen=True)
class Verdict:
    """What a run reached.

    Args:
        limits: terms of the budget that can be judged so far.
        pruned: whether there is a pruned network.
        finished: whether all stages are done.
        judged: the main metric, or None if there is none.
        speed: the latency in the budget's runtime, or the first measured one; None if nothing was measured.
    """

    limits: tuple[Limit, ...]
    pruned: bool
    finished: bool
    judged: Judged | None
    speed: Speed | None

    @property
    def met(self) -> bool:
        """Whether all judged terms of the budget are met."""
        return all(limit.met for limit in self.limits)

    @property
    def title(self) -> str:
        """The first line of the report."""
        if not self.pruned:
            return "Not pruned yet"
        worst = sorted(self.limits, key=lambda limit: limit.met)
        parts = "; ".join(limit.text for limit in worst)
        return f"Budget {'met' if self.met else 'missed'}: {parts}" if parts else "Pruned"

    @property
    def speed_text(self) -> str:
        """The one speed that the head of the report names."""
        if self.speed is None:
            return ""
        before, after = self.speed.dense, self.speed.pruned
        times = f"{after['median_ms']:.3g} ms instead of {before['median_ms']:.3g} ms"
        return f"{self.speed.ratio:.2f} × as fast in {self.speed.title}: {times}{formatting.noisy(before, after)}"


def verdict(report: Values) -> Verdict:
    """Judge a run.

    Args:
        report: the report from `collect`.
    """
    networks, measured = report["networks"], speeds(report)
    pruned = len(networks) > 1
    return Verdict(
        tuple(_limits(report)) if pruned else (),
        pruned,
        report["finished"],
        _judged(report) if pruned else None,
        measured[0] if measured and pruned else None,
    )


def _limits(report: Values) -> Iterator[Limit]:
    dense, last = report["networks"][0], report["networks"][-1]
    asked = dict(_terms(report["budget"]))
    for name, limit in report["limits"].items():
        relative = asked.get(name, "").endswith("%")
        if name in last["costs"] and limit > 0:
            whole = dense["costs"].get(name) if relative else None
            yield Limit(name, limit, last["costs"][name], whole, formatting.COSTS.get(name, name))
    for name, each in report["latencies"].items():
        if each["measured"] and each["limit_ms"] > 0:
            whole = each["dense"]["median_ms"] if asked.get(name, "").endswith("%") else None
            reached = each["limit_ms"] * (1 + each["relative_error"])
            yield Limit("latency", each["limit_ms"], reached, whole, f"{name} in {each['runtime']}")
    masked, sparsity = report["masked"], report["sparsity"]
    if masked and masked["weights"] and sparsity:
        count = masked["weights"]
        yield Limit("sparsity", int(sparsity * count) / count, 1 - masked["kept"] / count, None, "masked weights")


def _terms(budget: str) -> Iterator[tuple[str, str]]:
    """The name and the limit of each term of a budget as the user wrote it."""
    for term in budget.split(","):
        name, _, limit = term.replace(">", "<").partition("<")
        yield name.strip(), limit.lstrip("= ").strip()


def _judged(report: Values) -> Judged | None:
    name, dense, last = report["metric"], report["networks"][0], report["networks"][-1]
    if name is None or name not in dense["metrics"] or name not in last["metrics"]:
        return None
    before, after, images = dense["metrics"][name], last["metrics"][name], report["images"]
    interval = wilson(after, images) if images and name in COUNTED_RIGHT and 0 <= after <= 1 else None
    compared = report["answers"]["images"] if report["answers"] else 0
    return Judged(name, before, after, images, interval, _paired(report), compared)


def _paired(report: Values) -> tuple[float, float] | None:
    """Interval of the change of top-1, from images that only one of both networks classifies correctly."""
    answers = report["answers"]
    if report["metric"] != "top1" or not answers or not answers["outcomes"]:
        return None
    found = answers["outcomes"]
    return difference(found["only_dense"], found["only_pruned"], answers["images"])
