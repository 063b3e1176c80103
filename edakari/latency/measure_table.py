"""Filling a latency table: which points are missing, how long they take, and how to time them on a noisy machine.

Points are timed in batches of random order. The points of a batch are called alternately: a burst of noise then hits
one call of each point instead of all calls of one point, and each layer finds its weights outside the caches, as in a
network whose other layers ran in between. A point is timed again if its calls differ much, up to a limit. The table is
written after each batch, so a measurement that was stopped continues there.
"""

from __future__ import annotations

import dataclasses as dc
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from edakari.core.far_side.loops import BATCH, steady_samples
from edakari.core.graph import Graph
from edakari.core.space import Group
from edakari.latency.grid import Ints, Knots, knots_of, reachable
from edakari.latency.layers import Layer, Use, layers_of
from edakari.latency.table import Point, Sample, Table, extended
from edakari.latency.timing import Clock, LayerRuntime, RemoteRuntime, RunSettings

__all__ = ["CHAINS", "MeasurePlan", "Wanted", "fill", "plan_measurement", "sample_of", "timed", "wanted"]

CHAINS = (8, 64)
"""Lengths of the chains of tiny operators that determine the cost of a call and of an operator."""
PROBES, PROBE_SECONDS = 96, 2.0
"""Number of points that are timed for an estimate; one, if it takes so many seconds, as where layers are compiled."""
REMOTE_PROBES = 8


@dc.dataclass(frozen=True, slots=True)
class Wanted:
    """A layer call, and the knots at which its latency is wanted.

    Args:
        use: the layer call.
        knots: knots of each of its axes.
    """

    use: Use
    knots: tuple[Knots, ...]

    def points(self) -> list[Point]:
        """Return the layer at every combination of knots; the last axis varies fastest."""
        return [(self.use.layer, widths) for widths in itertools.product(*self.knots)]


@dc.dataclass(frozen=True, slots=True)
class MeasurePlan:
    """The points that are to be timed, and how long that takes.

    Args:
        layers: number of distinct layers of the network.
        points: number of all points of their grids.
        missing: points that the table lacks.
        seconds: estimated time to measure the missing points, s.
    """

    layers: int
    points: int
    missing: tuple[Point, ...]
    seconds: float


def wanted(graph: Graph, groups: Sequence[Group] | None = None) -> tuple[Wanted, ...]:
    """Return the layer calls of a network with the knots for all legal sizes of its groups.

    Args:
        graph: graph of the network.
        groups: groups that may be pruned, with their legal sizes; None selects all groups of the graph.
    """
    sized = {group.name: group for group in (graph.groups if groups is None else groups)}
    known: dict[object, Knots] = {}
    spans: dict[object, Ints] = {}
    found = []
    for use in layers_of(graph):
        knots = []
        for axis, layout in zip(use.layer.axes, use.widths, strict=True):
            key = (use.layer, axis, layout)
            if key not in known:
                known[key] = knots_of(use.layer, axis, reachable(layout, sized, spans))
            knots.append(known[key])
        found.append(Wanted(use, tuple(knots)))
    return tuple(found)


def plan_measurement(
    uses: Sequence[Wanted],
    table: Table,
    runtime: LayerRuntime | RemoteRuntime,
    settings: RunSettings,
    repeats: int = 10,
) -> MeasurePlan:
    """Find the points that a table lacks; time a few random ones to estimate the duration.

    Args:
        uses: layer calls of a network.
        table: table with the known points.
        runtime: runtime in which the points are timed.
        settings: settings of the runtime.
        repeats: number of calls of each point.
    """
    points = list(dict.fromkeys(point for use in uses for point in use.points()))
    if runtime.kernels_only:
        points += [(Layer("chain"), (length,)) for length in CHAINS]
    missing = [point for point in points if point not in table.samples]
    order = np.random.default_rng(0).permutation(len(missing))
    shuffled = tuple(missing[index] for index in order)
    if not shuffled:
        each = 0.0
    elif isinstance(runtime, RemoteRuntime):
        probes = shuffled[:REMOTE_PROBES]
        each = runtime.layer_seconds(probes, settings, repeats) / len(probes)
    else:
        each = _probed(shuffled[:PROBES], runtime, settings, repeats)
    return MeasurePlan(len({use.use.layer for use in uses}), len(points), shuffled, each * len(missing))


def _probed(probes: Sequence[Point], runtime: LayerRuntime, settings: RunSettings, repeats: int) -> float:
    """Time some points as `fill` does, and return how long each took, s."""
    start = time.perf_counter()
    timed(probes[:1], runtime, settings, repeats)
    first = time.perf_counter() - start
    if first > PROBE_SECONDS or len(probes) == 1:
        return first
    start = time.perf_counter()
    for batch in _batched(probes[1:]):
        timed(batch, runtime, settings, repeats)
    return (time.perf_counter() - start) / (len(probes) - 1)


def fill(
    table: Table,
    missing: Sequence[Point],
    runtime: LayerRuntime | RemoteRuntime,
    settings: RunSettings,
    repeats: int = 10,
    progress: Callable[[int], None] = lambda done: None,
) -> Table:
    """Time points and write them to the table's file.

    Args:
        table: table to extend; it does not change.
        missing: points to time, from `plan_measurement`.
        runtime: runtime in which the points are timed.
        settings: settings of the runtime.
        repeats: number of calls of each point that count; noisy points are called more often.
        progress: callback that takes the number of points after each batch.

    Returns:
        The table with these points.
    """
    if isinstance(runtime, RemoteRuntime):
        for times in runtime.time_layers(missing, settings, repeats):
            table = extended(table, {point: sample_of(each) for point, each in times.items()})
            progress(len(times))
        return table
    for batch in _batched(missing):
        table = extended(table, timed(batch, runtime, settings, repeats))
        progress(len(batch))
    return table


def timed(batch: Sequence[Point], runtime: LayerRuntime, settings: RunSettings, repeats: int) -> Mapping[Point, Sample]:
    """Time points alternately; time those again whose calls differ much.

    Args:
        batch: points, few enough to be loaded at the same time.
        runtime: runtime in which the points are timed.
        settings: settings of the runtime.
        repeats: number of calls of each point that count.
    """

    def clock(point: Point) -> Clock:
        return runtime.clock(*point, settings)

    found = steady_samples(batch, clock, settings.warmup, repeats)
    return {point: sample_of(times) for point, times in found.items()}


def _batched(points: Sequence[Point]) -> Iterable[Sequence[Point]]:
    return (points[first : first + BATCH] for first in range(0, len(points), BATCH))


def sample_of(times: Sequence[float]) -> Sample:
    """Return the latency of a layer from the times of its calls, ms."""
    low, median, high = np.percentile(times, (25, 50, 75))
    return Sample(float(min(times)), float(median), float(high - low), len(times))
