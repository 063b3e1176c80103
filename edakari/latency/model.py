"""What stands between a network and its latency: one protocol, and the work that is the same for all who fulfil it.

A latency model says which layers are timed, which sub-networks its predictions are fitted to, and what the times in a
table add up to. The functions here fill the table and fit the predictions of any model. `WidthLatency` predicts by the
widths of layers, `TokenLatency` by numbers of tokens; `WholeLatency` is for runtimes that cannot time layers.
"""

from __future__ import annotations

import dataclasses as dc
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import nn

from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.latency.bench import Bench, Tell, duration
from edakari.latency.budget_loop import LoopSettings
from edakari.latency.cache import require_cache
from edakari.latency.calibrate import fit_latency, left_out
from edakari.latency.layers import unknown_operators
from edakari.latency.measure_table import Wanted, fill, plan_measurement
from edakari.latency.predicted import PredictedLatency
from edakari.latency.table import Fit, Table, extended
from edakari.latency.timing import require_clock
from edakari.surgery import apply

__all__ = ["LatencyModel", "calibrate", "fill_table", "known_fit", "unfitted"]

Result = dict[str, Any]

PROGRESS_SECONDS = 10.0
"""Seconds between two reports of the progress."""


class LatencyModel(Protocol):
    """How the latency of a network depends on its sizes."""

    @property
    def network(self) -> nn.Module:
        """The network, on the CPU."""

    @property
    def graph(self) -> Graph:
        """Its graph, on the inputs that are timed."""

    @property
    def key(self) -> str:
        """What fits of its predictions are filed under in a table."""

    @property
    def uses(self) -> Sequence[Wanted]:
        """The layer calls to time; none where only whole networks are."""

    @property
    def loop(self) -> LoopSettings:
        """How the closed loop goes that meets a budget by this latency."""

    def samples(self, count: int) -> Sequence[Plan]:
        """So many sub-networks, from small to large ones, to fit predictions to; none where nothing is fitted."""

    def cost(self, table: Table) -> PredictedLatency:
        """The predicted latency, with the network's fit if the table has one.

        Args:
            table: has the times of all `uses`.

        Raises:
            MeasurementError: layers are missing in the table.
        """


def known_fit(model: LatencyModel, table: Table, networks: int) -> Fit | None:
    """A table's fit of a latency to at least so many networks; None where there is none."""
    fit = table.fits.get(model.key)
    return fit if fit is not None and fit.networks >= networks else None


def unfitted(table: Table) -> Table:
    """The same table without any fit."""
    return dc.replace(table, fits={})


def fill_table(model: LatencyModel, bench: Bench, tell: Tell) -> tuple[Table, Result]:
    """The table with all layers of a network; says beforehand how long that takes.

    Args:
        model: says which layers.
        bench: where they are timed.
        tell: takes messages about the progress.

    Returns:
        The table, and figures of the filling.

    Raises:
        MeasurementError: the table cannot be trusted or written, or the runtime times no layers.
    """
    table, uses = bench.table(), model.uses
    if not uses:
        return table, {"layers": 0, "points": 0, "filled": 0, "expected_s": 0.0, "fill_s": 0.0}
    runtime = require_clock(bench.runtime)
    plan = plan_measurement(uses, table, runtime, bench.settings)
    missing = len(plan.missing)
    tell(
        f"{runtime.name}: {plan.layers} distinct layers, {plan.points} points, {missing} of them not in the "
        f"table yet: about {duration(plan.seconds)}"
    )
    if missing:
        require_cache(table.path)
    start = time.perf_counter()
    progress = _Progress(f"of {missing} points", tell)
    table = fill(table, plan.missing, runtime, bench.settings, progress=progress.more)
    return table, {
        "layers": plan.layers,
        "points": plan.points,
        "filled": missing,
        "expected_s": plan.seconds,
        "fill_s": time.perf_counter() - start,
    }


def calibrate(model: LatencyModel, bench: Bench, networks: int, tell: Tell) -> tuple[Table, Result]:
    """The table with a fit of the predictions to measured sub-networks.

    Args:
        model: of the latency.
        bench: where networks are timed; its table has the layers.
        networks: how many sub-networks are timed.
        tell: takes messages about the progress.

    Returns:
        The table, and how far predictions erred, as plain values: `fit` is None where nothing is fitted.

    Raises:
        MeasurementError: the table cannot be written, or a network does not run.
    """
    table, plans = bench.table(), model.samples(networks)
    if not plans:
        return table, {"fit": None}
    require_cache(table.path)
    sizes = [plan.sizes() for plan in plans]
    cost = model.cost(unfitted(table))
    tell(
        f"{bench.runtime.name}: timing {len(plans)} sub-networks to fit the predictions: "
        + bench.expected(map(cost.predict, sizes))
    )
    small = {str(index): apply(model.network, plan, model.graph) for index, plan in enumerate(plans)}
    timings = list(bench.timed(small).values())
    measured = [timing.median_ms for timing in timings]
    fit = fit_latency(cost, sizes, measured)
    errors = np.abs(np.array([cost.predict(each) for each in sizes]) / measured - 1.0)
    return extended(table, {}, {model.key: fit}), {
        "repeats": bench.repeats,
        "fit": dc.asdict(fit),
        "unfitted_median_error": float(np.median(errors)),
        "spread": float(np.median([timing.spread / timing.median_ms for timing in timings])),
        "unknown_operators": list(unknown_operators(model.graph)),
        "networks": [
            {"predicted_ms": predicted, "layers_ms": cost.predict(each), **dc.asdict(timing)}
            for predicted, each, timing in zip(left_out(cost, sizes, measured).tolist(), sizes, timings, strict=True)
        ],
    }


@dc.dataclass
class _Progress:
    """Reports the progress every few seconds."""

    what: str
    tell: Tell
    done: int = 0
    told: float = dc.field(default_factory=time.monotonic)

    def more(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.told > PROGRESS_SECONDS:
            self.told = time.monotonic()
            self.tell(f"{self.done} {self.what}")
