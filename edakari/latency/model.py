"""The protocol of a network's latency, and the functions that are the same for all classes that fulfil it.

A latency model names the layers to time, the sub-networks that its predictions are fitted to, and how the times in a
table add up. The functions here fill the table and fit the predictions of any model. `WidthLatency` predicts from the
widths of layers, and `TokenLatency` from numbers of tokens. `WholeLatency` serves runtimes that cannot time layers.
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
from edakari.core.watching import Steps, listener
from edakari.core.wording import counted
from edakari.latency.bench import Bench, Tell, duration
from edakari.latency.budget_loop import LoopSettings
from edakari.latency.cache import require_cache
from edakari.latency.calibrate import fit_latency, left_out
from edakari.latency.layers import unknown_operators
from edakari.latency.measure_table import Wanted, fill, plan_measurement
from edakari.latency.predicted import PredictedLatency
from edakari.latency.runtime_protocols import require_layers
from edakari.latency.table import Fit, Table, extended
from edakari.surgery import apply

__all__ = ["LatencyModel", "calibrate", "fill_table", "known_fit", "unfitted"]

Result = dict[str, Any]

PROGRESS_SECONDS = 10.0
"""Seconds between two progress reports."""


class LatencyModel(Protocol):
    """How the latency of a network depends on its sizes."""

    @property
    def network(self) -> nn.Module:
        """The network, on the CPU."""

    @property
    def graph(self) -> Graph:
        """Graph of the network on the inputs that are timed."""

    @property
    def key(self) -> str:
        """Key of the fits of its predictions in a table."""

    @property
    def uses(self) -> Sequence[Wanted]:
        """Layer calls to time; empty if the runtime only times whole networks."""

    @property
    def loop(self) -> LoopSettings:
        """Settings of the closed loop that meets a budget on this latency."""

    def samples(self, count: int, cost: PredictedLatency) -> Sequence[Plan]:
        """Return plans of networks to fit the predictions to; empty if nothing is fitted.

        Args:
            count: number of networks.
            cost: predictions that are not fitted.
        """

    def cost(self, table: Table) -> PredictedLatency:
        """Return the predicted latency; it includes the network's fit if the table has one.

        Args:
            table: table with the times of all `uses`.

        Raises:
            MeasurementError: the table lacks layers.
        """


def known_fit(model: LatencyModel, table: Table, networks: int) -> Fit | None:
    """Return a table's fit of a latency to at least so many networks; None if there is none."""
    fit = table.fits.get(model.key)
    return fit if fit is not None and fit.networks >= networks else None


def unfitted(table: Table) -> Table:
    """Return the same table without fits."""
    return dc.replace(table, fits={})


def fill_table(model: LatencyModel, bench: Bench, tell: Tell) -> tuple[Table, Result]:
    """Time all layers of a network that the table lacks; report beforehand how long that takes.

    Args:
        model: latency model that names the layers.
        bench: how and where the layers are timed.
        tell: callback that takes messages about the progress.

    Returns:
        The table, and numbers and duration of the measurement.

    Raises:
        MeasurementError: the table cannot be trusted or written, or the runtime cannot time layers.
    """
    table, uses = bench.table(), model.uses
    if not uses:
        return table, {"layers": 0, "points": 0, "filled": 0, "expected_s": 0.0, "fill_s": 0.0}
    runtime = require_layers(bench.runtime)
    plan = plan_measurement(uses, table, runtime, bench.settings)
    missing = len(plan.missing)
    tell(
        f"{runtime.name}: {counted(plan.layers, 'distinct layer')}, {counted(plan.points, 'point')}, {missing} of them "
        f"not in the table yet: about {duration(plan.seconds)}"
    )
    if missing:
        require_cache(table.path)
    start = time.perf_counter()
    progress = _Progress(missing, tell, Steps(f"points in {runtime.name}", missing))
    table = fill(table, plan.missing, runtime, bench.settings, progress=progress.more)
    return table, {
        "layers": plan.layers,
        "points": plan.points,
        "filled": missing,
        "expected_s": plan.seconds,
        "fill_s": time.perf_counter() - start,
    }


def calibrate(model: LatencyModel, bench: Bench, networks: int, tell: Tell) -> tuple[Table, Result]:
    """Fit the predictions to measured sub-networks, and add the fit to the table.

    Args:
        model: latency model whose predictions are fitted.
        bench: how and where networks are timed; its table has the layers.
        networks: number of networks to time.
        tell: callback that takes messages about the progress.

    Returns:
        The table, and the errors of the predictions as plain values; `fit` is None if nothing is fitted.

    Raises:
        MeasurementError: the table cannot be written, or a network does not run.
    """
    table = bench.table()
    cost = model.cost(unfitted(table))
    plans = model.samples(networks, cost)
    if not plans:
        return table, {"fit": None}
    require_cache(table.path)
    sizes = [plan.sizes() for plan in plans]
    what = f"timing {counted(len(plans), 'network')} to fit the predictions"
    tell(f"{bench.runtime.name}: {what}")

    def loaded(seconds: float) -> None:
        tell(f"{what}: {bench.expected(map(cost.predict, sizes), seconds)}, with exports and loads")

    small = {str(index): apply(model.network, plan, model.graph) for index, plan in enumerate(plans)}
    timings = list(bench.timed(small, loaded=loaded).values())
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
    """Reports how many points are done; every few seconds in words, if nobody listens to the steps; run state."""

    whole: int
    tell: Tell
    steps: Steps
    done: int = 0
    begun: float = dc.field(default_factory=time.monotonic)
    told: float = dc.field(default_factory=time.monotonic)

    def more(self, count: int) -> None:
        self.done += count
        self.steps.at(self.done)
        if listener() is not None:
            return
        now = time.monotonic()
        if now - self.told > PROGRESS_SECONDS:
            self.told = now
            left = (now - self.begun) / max(self.done, 1) * (self.whole - self.done)
            self.tell(f"{self.done} of {self.whole} points ({self.done / self.whole:.0%}), {duration(left)} left")
