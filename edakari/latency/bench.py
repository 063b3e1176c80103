"""Timing networks whole, and what takes that: the table filled, the predictions fitted to random sub-networks."""

from __future__ import annotations

import dataclasses as dc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.file_errors import file_errors
from edakari.core.graph import Graph
from edakari.core.networks import unwrapped
from edakari.core.plan import KeepChannels, Plan
from edakari.core.space import Group, Sizes, limited
from edakari.core.steady import STEADY
from edakari.cost.example import mapped, named_tensors
from edakari.errors import MeasurementError
from edakari.graph import trace
from edakari.latency import (
    LatencyCost,
    Table,
    extended,
    fill,
    fit_latency,
    key_of,
    latency_cost,
    left_out,
    network_key,
    open_table,
    plan_measurement,
    random_sizes,
    require_cache,
    unknown_operators,
    wanted,
)
from edakari.latency.measure_table import Wanted
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import (
    RunSettings,
    Runtime,
    Timing,
    expected_seconds,
    measure,
    require_clock,
    require_steady,
)
from edakari.surgery import apply

__all__ = ["MAX_ATTEMPTS", "Bench", "Tell", "calibrated", "filled", "filled_uses", "measure_latency"]

Tell = Callable[[str], None]
"""Told in words what is going on."""

STEP = 8
"""Widths that runtimes work in."""
MAX_ATTEMPTS = 3
"""Most times that networks are timed anew where the machine is noisy."""
MEDIAN_TOLERANCE = 0.004
"""Uncertainty of a timing, as a share, up to which networks are timed further where it decides."""
PROGRESS_SECONDS = 10.0
"""Seconds between two words on how far it has come."""


@dc.dataclass(frozen=True)
class Bench:
    """Where and how networks are timed.

    Args:
        runtime: in which.
        settings: of the runtime.
        example: inputs of every call, [batch, ...]; or a tuple of positional arguments or a dict of keywords.
        repeats: calls of each network that are timed, at least.
        spread: largest distance between the quartiles that is accepted, as a share of the median.
        cache: folder of latency tables; None is the usual one.
    """

    runtime: Runtime
    settings: RunSettings
    example: Any
    repeats: int = 50
    spread: float = STEADY
    cache: Path | None = None

    def table(self) -> Table:
        """The table of this machine, runtime and settings.

        Raises:
            MeasurementError: the runtime is not installed, or the table cannot be trusted.
        """
        return open_table(key_of(self.runtime, self.settings), self.cache)

    def timed(self, models: Mapping[str, nn.Module], tolerance: float = math.inf) -> dict[str, Timing]:
        """Latency of networks in turns, steady or not; see `edakari.latency.timing.time_callables`."""
        device = torch.device(self.settings.device)
        placed = {name: _on(device, model) for name, model in models.items()}
        example = mapped(self.example, lambda x: x.to(device))
        return measure(placed, example, self.runtime, settings=self.settings, repeats=self.repeats, tolerance=tolerance)

    def expected(self, latencies_ms: Iterable[float]) -> str:
        """In words, how long networks of about these latencies take to be timed, once the runtime has loaded them."""
        return f"about {_duration(expected_seconds(latencies_ms, self.settings.warmup, self.repeats))}"

    def steady(self, models: Mapping[str, nn.Module], tolerance: float = MEDIAN_TOLERANCE) -> dict[str, Timing]:
        """Latency of networks in turns, until it is known within a tolerance; again where the machine was noisy.

        Raises:
            MeasurementError: it stays noisy, or a network does not run; says which, and the spread.
        """
        for left in reversed(range(MAX_ATTEMPTS)):
            timings = self.timed(models, tolerance)
            try:
                for name, timing in timings.items():
                    require_steady(timing, f"the {name} network in {self.runtime.name}", self.spread)
            except MeasurementError:
                if not left:
                    raise
            else:
                break
        return timings


@file_errors()
def measure_latency(
    model: nn.Module,
    example: Any,
    runtime: str = "onnxruntime",
    *,
    threads: int = 1,
    groups: Sequence[Group] | None = None,
    networks: int = 8,
    cache: str | Path | None = None,
    tell: Tell = lambda text: None,
) -> LatencyCost:
    """The latency of a network on this machine as a cost: measures what no run before has measured.

    Args:
        model: the network, on the CPU; left as found.
        example: its inputs, [batch, ...]; or a tuple of positional arguments or a dict of keywords with such tensors.
        runtime: which will serve it.
        threads: CPU threads of one call; 0 leaves the runtime's own choice.
        groups: those that will be sized, with their legal sizes; None is all, in multiples of 8.
        networks: random sub-networks that are timed whole to fit the predictions, unless a run before has done so;
            0 is none.
        cache: folder of latency tables; None is the usual one.
        tell: told in words how long it will take and how far it has come; `print` will do.

    Raises:
        MeasurementError: the runtime is not installed, or does not run the network, or a table cannot be trusted.
    """
    model = unwrapped(model, "measure_latency(model, example)")
    named_tensors(example)  # there are such
    bench = Bench(runtime_named(runtime), RunSettings(threads=threads), example, cache=Path(cache) if cache else None)
    bench.table()
    graph = trace(model, example)
    chosen = limited(graph.groups, round_to=STEP) if groups is None else groups
    bench.timed({"dense": model})
    table, _ = filled(graph, chosen, bench, tell)
    if networks and network_key(graph) not in table.fits:
        table, _ = calibrated(model, graph, chosen, bench, networks, tell)
    return latency_cost(graph, table, chosen)


def filled(graph: Graph, groups: Sequence[Group], bench: Bench, tell: Tell) -> tuple[Table, dict[str, Any]]:
    """The table with all that a network asks for; says beforehand how long that takes.

    Args:
        graph: of the network.
        groups: that may be sized, with their legal sizes.
        bench: where.
        tell: told how it goes.

    Returns:
        The table, and figures of the filling.
    """
    return filled_uses(wanted(graph, groups), bench, tell)


def filled_uses(uses: Sequence[Wanted], bench: Bench, tell: Tell) -> tuple[Table, dict[str, Any]]:
    """The table with some layer calls; see `filled`."""
    table, runtime = bench.table(), require_clock(bench.runtime)
    plan = plan_measurement(uses, table, runtime, bench.settings)
    missing = len(plan.missing)
    tell(
        f"{runtime.name}: {plan.layers} distinct layers, {plan.points} points, {missing} of them not in the "
        f"table yet: about {_duration(plan.seconds)}"
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


def calibrated(
    model: nn.Module, graph: Graph, groups: Sequence[Group], bench: Bench, networks: int, tell: Tell
) -> tuple[Table, dict[str, Any]]:
    """The table with a fit of a network's predictions to random sub-networks that are timed whole.

    Args:
        model: the network, on the CPU.
        graph: of it.
        groups: that may be sized, with their legal sizes.
        bench: where; its table has the layers.
        networks: how many sub-networks.
        tell: told how it goes.

    Returns:
        The table, and how far predictions were off, as plain values.
    """
    table = bench.table()
    require_cache(table.path)
    sizes = random_sizes(groups, networks)
    cost = latency_cost(graph, dc.replace(table, fits={}), groups)
    tell(
        f"{bench.runtime.name}: timing {networks} random sub-networks to fit the predictions: "
        + bench.expected(map(cost.predict, sizes))
    )
    small = {str(index): apply(model, _any_of(graph, each), graph) for index, each in enumerate(sizes)}
    timings = list(bench.timed(small).values())
    measured = [timing.median_ms for timing in timings]
    fit = fit_latency(cost, sizes, measured)
    errors = np.abs(np.array([cost.predict(each) for each in sizes]) / measured - 1.0)
    return extended(table, {}, {network_key(graph): fit}), {
        "repeats": bench.repeats,
        "fit": dc.asdict(fit),
        "unfitted_median_error": float(np.median(errors)),
        "spread": float(np.median([timing.spread / timing.median_ms for timing in timings])),
        "unknown_operators": list(unknown_operators(graph)),
        "networks": [
            {"predicted_ms": predicted, "layers_ms": cost.predict(each), **dc.asdict(timing)}
            for predicted, each, timing in zip(left_out(cost, sizes, measured).tolist(), sizes, timings, strict=True)
        ],
    }


@dc.dataclass
class _Progress:
    """Says now and then how far it has come."""

    what: str
    tell: Tell
    done: int = 0
    told: float = dc.field(default_factory=time.monotonic)

    def more(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.told > PROGRESS_SECONDS:
            self.told = time.monotonic()
            self.tell(f"{self.done} {self.what}")


def _on(device: torch.device, model: nn.Module) -> nn.Module:
    here = next(model.parameters(), torch.empty(0)).device
    return model if here == device else copied(model).to(device)


def _any_of(graph: Graph, sizes: Sizes) -> Plan:
    """The first positions of each group: for the time it is all the same which."""
    edits = [KeepChannels(name, tuple(range(size))) for name, size in sizes.items() if size < graph[name].size]
    return Plan(tuple(edits), graph.fingerprint, graph.inputs, "calibration")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
