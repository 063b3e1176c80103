"""What `edakari measure --calibrate` does: fill the table, time sub-networks, fit, and say how good predictions are."""

from __future__ import annotations

import dataclasses as dc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from edakari.cli.console import note
from edakari.core.graph import Graph
from edakari.core.plan import KeepChannels, Plan
from edakari.core.space import Group, Sizes, limited
from edakari.cost.latency import (
    Fit,
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
    unknown_operators,
    wanted,
)
from edakari.cost.measure import RunSettings, Runtime, Timing, time_callables
from edakari.graph import trace
from edakari.surgery import apply

__all__ = ["Request", "calibration", "calibration_text"]

LEAST = 0.25
"""Smallest share of a group that is measured and drawn."""
NOISY = 0.15
"""Typical distance between the quartiles, as a share of the median, from which on figures are not to be trusted."""


@dc.dataclass(frozen=True)
class Request:
    """A network to calibrate.

    Args:
        model: the network, on the CPU.
        example: its inputs, [batch, ...].
        networks: random sub-networks to time.
        step: widths are multiples of this.
        repeats: calls of each sub-network that are timed.
        cache: folder of latency tables; None is the usual one.
    """

    model: nn.Module
    example: torch.Tensor
    networks: int
    step: int
    repeats: int
    cache: Path | None


def calibration(request: Request, runtime: Runtime, settings: RunSettings) -> dict[str, Any]:
    """Fill the table of a runtime for a network, time sub-networks, and keep the fit in the table.

    Args:
        request: the network and what is asked of it.
        runtime: in which to time.
        settings: of the runtime.

    Returns:
        Plain values: what was measured, and how far predictions were off.
    """
    graph = trace(request.model, request.example)
    groups = limited(graph.groups, step=request.step, least=LEAST)
    table = open_table(key_of(runtime, settings), request.cache)
    table, filling = _filled(table, graph, groups, runtime, settings)
    sizes = random_sizes(groups, request.networks)
    timings = _timed(request, graph, sizes, runtime, settings)
    measured = [timing.median_ms for timing in timings]
    plain = dc.replace(table, fits={})
    cost = latency_cost(graph, plain, groups)
    fit = fit_latency(cost, sizes, measured)
    extended(table, {}, {network_key(graph): fit})
    return {
        **dc.asdict(table.key),
        "table": str(table.path),
        **filling,
        "repeats": request.repeats,
        "fit": dc.asdict(fit),
        "unfitted_median_error": float(np.median(np.abs(np.array(list(map(cost.predict, sizes))) / measured - 1.0))),
        "spread": float(np.median([timing.spread / timing.median_ms for timing in timings])),
        "unknown_operators": list(unknown_operators(graph)),
        "networks": [
            {"predicted_ms": predicted, "layers_ms": cost.predict(each), **dc.asdict(timing)}
            for predicted, each, timing in zip(left_out(cost, sizes, measured).tolist(), sizes, timings, strict=True)
        ],
    }


def calibration_text(name: str, result: Mapping[str, Any]) -> str:
    """What a calibration found, in a few lines."""
    fit, spread = Fit(**result["fit"]), result["spread"]
    lines = [
        f"{name}: {fit.networks} sub-networks of {min(_medians(result)):.3g} to {max(_medians(result)):.3g} ms",
        f"  error of the prediction: {fit.median_error:.1%} median, {fit.worst_error:.1%} worst "
        f"(each predicted by a fit to the others)",
        f"  rank correlation: {fit.rank_correlation:.3f}",
        f"  latency = {fit.constant_ms:.3g} ms + {fit.scale:.3f} × the sum of its layers",
        f"  table: {result['table']}",
    ]
    if spread > NOISY:
        lines.append(
            f"  [yellow]The machine is noisy:[/] calls of one network differ by {spread:.0%} (between the quartiles). "
            "Calibrate again when it is quiet."
        )
    if result["unknown_operators"]:
        lines.append(f"  priced as a pass over their values: {', '.join(result['unknown_operators'])}")
    return "\n".join(lines)


def _medians(result: Mapping[str, Any]) -> list[float]:
    return [network["median_ms"] for network in result["networks"]]


def _filled(
    table: Table, graph: Graph, groups: Sequence[Group], runtime: Runtime, settings: RunSettings
) -> tuple[Table, dict[str, Any]]:
    plan = plan_measurement(wanted(graph, groups), table, runtime, settings)
    note(
        f"{runtime.name}: {plan.layers} distinct layers, {plan.points} points, {len(plan.missing)} of them not in the "
        f"table yet: about {_duration(plan.seconds)}"
    )
    start = time.perf_counter()
    with _bar("layers", len(plan.missing)) as progress:
        table = fill(table, plan.missing, runtime, settings, progress=progress)
    return table, {
        "layers": plan.layers,
        "points": plan.points,
        "filled": len(plan.missing),
        "expected_s": plan.seconds,
        "fill_s": time.perf_counter() - start,
    }


def _timed(
    request: Request, graph: Graph, sizes: Sequence[Sizes], runtime: Runtime, settings: RunSettings
) -> list[Timing]:
    calls = {}
    with _bar("sub-networks", len(sizes)) as progress:
        for place, each in enumerate(sizes):
            small = apply(_plan(graph, each), request.model)
            calls[str(place)] = runtime.prepare(small, request.example, settings)
            calls[str(place)]()
            progress(1)
    return list(time_callables(calls, settings.warmup, request.repeats).values())


def _plan(graph: Graph, sizes: Sizes) -> Plan:
    """The first positions of each group: for the time it is all the same which."""
    edits = [KeepChannels(name, tuple(range(size))) for name, size in sizes.items() if size < graph[name].size]
    return Plan(tuple(edits), graph.fingerprint, graph.inputs, "calibration")


@contextmanager
def _bar(what: str, total: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
