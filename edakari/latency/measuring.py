"""`edakari.measure_latency`: the latency of a network on this machine as a cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from edakari.core.file_errors import file_errors
from edakari.core.networks import unwrapped
from edakari.core.space import Group, limited
from edakari.cost.example import named_tensors
from edakari.graph import trace
from edakari.latency.bench import Bench, Tell
from edakari.latency.model import calibrate, fill_table, known_fit
from edakari.latency.predict import LatencyCost
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, require_clock
from edakari.latency.widths import WidthLatency

__all__ = ["measure_latency"]

STEP = 8
"""Widths that runtimes work in."""


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
        networks: random sub-networks that are timed whole to fit the predictions, unless the table has such a fit;
            0 is none.
        cache: folder of latency tables; None is the usual one.
        tell: takes messages about the time it will take and the progress; `print` will do.

    Raises:
        MeasurementError: the runtime is not installed, times no single layers, or does not run the network, or a table
            cannot be trusted.
    """
    model = unwrapped(model, "measure_latency(model, example)")
    named_tensors(example)  # there are such
    bench = Bench(runtime_named(runtime), RunSettings(threads=threads), example, cache=Path(cache) if cache else None)
    require_clock(bench.runtime)
    bench.table()
    graph = trace(model, example)
    chosen = limited(graph.groups, round_to=STEP) if groups is None else groups
    bench.timed({"dense": model})
    latency = WidthLatency(model, graph, chosen)
    table, _ = fill_table(latency, bench, tell)
    if networks and known_fit(latency, table, networks) is None:
        table, _ = calibrate(latency, bench, networks, tell)
    return latency.cost(table)
