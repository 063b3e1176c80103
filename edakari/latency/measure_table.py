"""Filling a table: which points are missing, how long they will take, and timing them on a noisy machine.

Points are timed in batches of a random order. The calls of a batch take turns, so that a burst of noise hits a call of
each point instead of all calls of one, and so that each layer finds its weights as cold as it does in a network, whose
other layers ran in between. A point whose calls differ much is timed again, up to a limit. After each batch the table
is on disk: a killed measurement goes on where it was.
"""

from __future__ import annotations

import dataclasses as dc
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from edakari.core.graph import Graph
from edakari.core.space import Group
from edakari.latency.grid import Knots, knots_of, reachable
from edakari.latency.layers import Layer, Use, layers_of
from edakari.latency.table import Point, Sample, Table, extended
from edakari.latency.timing import Clock, LayerRuntime, RunSettings

__all__ = ["CHAINS", "MeasurePlan", "Wanted", "fill", "plan_measurement", "timed", "wanted"]

CHAINS = (8, 64)
"""Lengths of the chains of tiny operators from which the cost of a call and of an operator is taken."""
BATCH = 24
PROBES = 8
NOISY = 0.1
"""Distance between the quartiles, as a fraction of the median, above which a point is timed again."""
TICK = 0.003
"""Distance between the quartiles that is never noise, ms: profiles count whole microseconds."""
AGAIN = 2


@dc.dataclass(frozen=True, slots=True)
class Wanted:
    """A layer call and the knots over which its time is asked for.

    Args:
        use: the call.
        knots: for each of its axes.
    """

    use: Use
    knots: tuple[Knots, ...]

    def points(self) -> list[Point]:
        """The layer at every combination of knots, the last axis fastest."""
        return [(self.use.layer, widths) for widths in itertools.product(*self.knots)]


@dc.dataclass(frozen=True, slots=True)
class MeasurePlan:
    """What is to be timed, and how long that will take.

    Args:
        layers: distinct layers of the network.
        points: all points of their grids.
        missing: the points that the table does not have.
        seconds: expected time for these, from a few of them; an estimate.
    """

    layers: int
    points: int
    missing: tuple[Point, ...]
    seconds: float


def wanted(graph: Graph, groups: Sequence[Group] | None = None) -> tuple[Wanted, ...]:
    """The layer calls of a network with the knots that legal sizes of its groups ask for.

    Args:
        graph: of the network.
        groups: those that may be sized, with their legal sizes; None is all of the graph's.
    """
    sized = {group.name: group for group in (graph.groups if groups is None else groups)}
    known: dict[object, Knots] = {}
    found = []
    for use in layers_of(graph):
        knots = []
        for axis, layout in zip(use.layer.axes, use.widths, strict=True):
            key = (use.layer, axis, layout)
            if key not in known:
                known[key] = knots_of(use.layer, axis, reachable(layout, sized))
            knots.append(known[key])
        found.append(Wanted(use, tuple(knots)))
    return tuple(found)


def plan_measurement(
    uses: Sequence[Wanted], table: Table, runtime: LayerRuntime, settings: RunSettings, repeats: int = 10
) -> MeasurePlan:
    """What is missing in a table, and how long it will take: a few random points are timed to say so.

    Args:
        uses: the layer calls of a network.
        table: what is known already.
        runtime: in which to time.
        settings: of the runtime.
        repeats: calls of each point.
    """
    points = list(dict.fromkeys(point for use in uses for point in use.points()))
    if runtime.kernels_only:
        points += [(Layer("chain"), (length,)) for length in CHAINS]
    missing = [point for point in points if point not in table.samples]
    order = np.random.default_rng(0).permutation(len(missing))
    shuffled = tuple(missing[index] for index in order)
    probes = shuffled[:PROBES]
    start = time.perf_counter()
    clocks = [runtime.clock(layer, widths, settings) for layer, widths in probes]
    opened = time.perf_counter()
    _run(clocks, 2)
    for clock in clocks:
        clock.times()
    ran = time.perf_counter()
    calls = (settings.warmup + repeats) / 2
    each = ((opened - start) + calls * (ran - opened)) / max(len(probes), 1)
    return MeasurePlan(len({use.use.layer for use in uses}), len(points), shuffled, each * len(missing))


def fill(
    table: Table,
    missing: Sequence[Point],
    runtime: LayerRuntime,
    settings: RunSettings,
    repeats: int = 10,
    progress: Callable[[int], None] = lambda done: None,
) -> Table:
    """Time points and keep them on disk.

    Args:
        table: to extend; stays as it is.
        missing: what to time, as `plan_measurement` found.
        runtime: in which to time.
        settings: of the runtime.
        repeats: calls of each point that count; noisy points get more.
        progress: told of the number of points after each batch.

    Returns:
        The table with these points.
    """
    for batch in _batched(missing):
        table = extended(table, timed(batch, runtime, settings, repeats))
        progress(len(batch))
    return table


def timed(batch: Sequence[Point], runtime: LayerRuntime, settings: RunSettings, repeats: int) -> Mapping[Point, Sample]:
    """Time points alternately; those whose calls differ much are timed again.

    Args:
        batch: points, few enough to be open at the same time.
        runtime: in which to time.
        settings: of the runtime.
        repeats: calls of each point that count.
    """
    elapsed: dict[Point, list[float]] = {point: [] for point in batch}
    left = list(batch)
    for _ in range(1 + AGAIN):
        clocks = [runtime.clock(layer, widths, settings) for layer, widths in left]
        _run(clocks, settings.warmup + repeats)
        for point, clock in zip(left, clocks, strict=True):
            elapsed[point] += clock.times()[settings.warmup :]
        left = [point for point in left if _noisy(elapsed[point])]
        if not left:
            break
    return {point: _sample(times) for point, times in elapsed.items()}


def _batched(points: Sequence[Point]) -> Iterable[Sequence[Point]]:
    return (points[first : first + BATCH] for first in range(0, len(points), BATCH))


def _run(clocks: Sequence[Clock], rounds: int) -> None:
    for turn in range(rounds):
        first = turn % max(len(clocks), 1)
        for clock in (*clocks[first:], *clocks[:first]):
            clock.run()


def _noisy(times: Sequence[float]) -> bool:
    sample = _sample(times)
    return sample.spread_ms > max(NOISY * sample.median_ms, TICK)


def _sample(times: Sequence[float]) -> Sample:
    low, median, high = np.percentile(times, (25, 50, 75))
    return Sample(float(min(times)), float(median), float(high - low), len(times))
