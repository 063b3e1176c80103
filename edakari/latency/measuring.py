"""`edakari.measure_latency`: the latency of a network on this machine as a cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from edakari.core.arguments import require_methods
from edakari.core.choosing import TIMED_STEP
from edakari.core.file_errors import file_errors
from edakari.core.networks import unwrapped
from edakari.core.space import Group, limited
from edakari.cost.example import named_tensors
from edakari.graph import trace
from edakari.latency.bench import Bench, Tell
from edakari.latency.model import calibrate, fill_table, known_fit
from edakari.latency.predict import LatencyCost
from edakari.latency.runtime_protocols import Runtime, require_layers
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings
from edakari.latency.widths import WidthLatency

__all__ = ["measure_latency"]


@file_errors()
def measure_latency(
    model: nn.Module,
    example: Any,
    runtime: str | Runtime = "onnxruntime",
    *,
    threads: int = 1,
    groups: Sequence[Group] | None = None,
    networks: int = 8,
    cache: str | Path | None = None,
    tell: Tell = lambda text: None,
) -> LatencyCost:
    """Return the latency of a network as a cost, here or on another device; time the layers that no run has timed.

    Args:
        model: network on the CPU; it does not change.
        example: its inputs, [batch, ...]; or a tuple of positional arguments or a dict of keywords with such tensors.
        runtime: runtime that will serve the network: its name, or the runtime itself, such as
            `edakari.latency.runtimes.command.command_runtime("./on_pi.sh {folder}", "pi4")`.
        threads: CPU threads of one call; 0 leaves the choice to the runtime.
        groups: groups that will be pruned, with their legal sizes; None selects all, in multiples of 8.
        networks: number of networks that are timed whole to fit the predictions, unless the table already has such a
            fit: the dense one, and sub-networks, half of them random and half as a solver chooses; 0 fits nothing.
        cache: folder of latency tables; None selects `edakari.latency.cache_folder()`.
        tell: callback that takes messages about the duration and the progress, such as `print`.

    Raises:
        MeasurementError: the runtime is not installed, cannot time single layers, or does not run the network; or a
            table cannot be trusted.
    """
    model = unwrapped(model, "measure_latency(model, example)")
    if not isinstance(runtime, str):
        require_methods("measure_latency(model, example, runtime)", "runtime", runtime, ("versions", "check"))
    named_tensors(example)  # raises where there is no tensor
    chosen_runtime = runtime_named(runtime) if isinstance(runtime, str) else runtime
    bench = Bench(chosen_runtime, RunSettings(threads=threads), example, cache=Path(cache) if cache else None)
    require_layers(bench.runtime)
    bench.table()
    graph = trace(model, example)
    chosen = limited(graph.groups, round_to=TIMED_STEP) if groups is None else groups
    bench.timed({"dense": model})
    latency = WidthLatency(model, graph, chosen)
    table, _ = fill_table(latency, bench, tell)
    if networks and known_fit(latency, table, networks) is None:
        table, _ = calibrate(latency, bench, networks, tell)
    return latency.cost(table)
