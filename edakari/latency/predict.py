"""Predicts the latency of a whole network from a table of layers; the prediction is a cost like any other.

The latency is a constant plus a scale times the sum of the layers' times. Each time is interpolated bilinearly between
the knots of its grid, lane by lane (see `grid`). A layer's time is its fastest call, because noise only adds time: on a
busy machine, a table of medians erred by 13 % on ViT-S, and a table of minima from the same calls erred by 4 %. At
first, the constant is the cost of a call and its operators, and the scale is 1. A calibration fits both.
"""

from __future__ import annotations

import collections
import dataclasses as dc
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.graph import Graph
from edakari.core.layout import Layout, axes, extent
from edakari.core.space import Group, Sizes
from edakari.errors import MeasurementError
from edakari.latency.grid import BLOCK, Knots, lanes, stepped
from edakari.latency.layers import Layer
from edakari.latency.measure_table import CHAINS, Wanted, wanted
from edakari.latency.table import Table, network_key

__all__ = ["LatencyCost", "Part", "Surface", "call_overhead", "latency_cost"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bracket = tuple[Ints, Ints, Floats, npt.NDArray[np.bool_]]


class Surface:
    """Time of one layer over its widths.

    Args:
        knots: knots of each axis, in ascending order.
        times: time at every combination of knots, ms, float [knots, ...].
        steps: for each axis, whether the time is a staircase over it.
    """

    def __init__(self, knots: Sequence[Knots], times: Floats, steps: Sequence[bool]) -> None:
        self.axes = [_Axis.of(each, step) for each, step in zip(knots, steps, strict=True)]
        # a layer of width 0 does not exist
        self.times = np.pad(times, [(1, 0)] * times.ndim)
        for indices in itertools.product(*(axis.lanes.values() for axis in self.axes)):
            # within a lane, a wider layer is never faster, so a dip is noise
            block = self.times[np.ix_(*indices)]
            for axis in range(block.ndim):
                block = np.maximum.accumulate(block, axis=axis)
            self.times[np.ix_(*indices)] = block
        self.known: dict[tuple[int, ...], float] = {}

    def at(self, *widths: npt.ArrayLike) -> Floats:
        """Time at these widths, ms; widths that fit no block count as the next multiple of 8."""
        found = self._best(widths, exactly=True)
        return np.where(np.isfinite(found), found, self._best(widths, exactly=False))

    def at_least(self, *widths: npt.ArrayLike) -> Floats:
        """Time of the fastest layer that is at least as wide, ms; it never falls as widths grow."""
        return self._best(widths, exactly=False)

    def least(self, widths: tuple[int, ...]) -> float:
        """Like `at_least`, for one combination of widths; results are cached."""
        found = self.known.get(widths)
        if found is None:
            found = self.known[widths] = float(self.at_least(*widths))
        return found

    def _best(self, widths: Sequence[npt.ArrayLike], *, exactly: bool) -> Floats:
        arrays = np.broadcast_arrays(*(np.asarray(width, dtype=np.int64) for width in widths))
        choices = [axis.brackets(array, exactly) for axis, array in zip(self.axes, arrays, strict=True)]
        best = np.full(arrays[0].shape, np.inf)
        for combination in itertools.product(*choices):
            best = np.minimum(best, self._interpolated(combination))
        return best

    def _interpolated(self, brackets: Sequence[Bracket]) -> Floats:
        total: Any = 0.0
        for corner in itertools.product((0, 1), repeat=len(brackets)):
            weight: Any = 1.0
            for high, bracket in zip(corner, brackets, strict=True):
                weight = weight * (bracket[2] if high else 1.0 - bracket[2])
            knots = tuple(bracket[high] for high, bracket in zip(corner, brackets, strict=True))
            total = total + weight * self.times[knots]
        allowed = np.logical_and.reduce([bracket[3] for bracket in brackets])
        return np.where(allowed, total, np.inf)


@dc.dataclass(frozen=True)
class _Axis:
    """Knots along one axis, preceded by 0, and the lane of each knot.

    Lane 0 is the unpruned width if 8 does not divide it, or all knots if the time has no steps.
    """

    knots: Ints
    lanes: Mapping[int, Ints]
    stepped: bool

    @classmethod
    def of(cls, knots: Knots, step: bool) -> _Axis:
        every = np.array((0, *knots), dtype=np.int64)
        steps = step and knots[-1] > BLOCK
        found = lanes(every) if steps else np.zeros_like(every)
        names = np.unique(found[1:])
        return cls(every, {int(lane): np.flatnonzero((found == lane) | (every == 0)) for lane in names}, steps)

    def brackets(self, widths: Ints, exactly: bool) -> list[Bracket]:
        """For each lane: knots around each width, weight of the upper knot, and whether the lane applies."""
        found = []
        for lane, indices in self.lanes.items():
            knots = self.knots[indices]
            member = self._next_in(lane, widths) if self.stepped else widths
            allowed = member == widths if exactly else member <= knots[-1]
            high = np.clip(np.searchsorted(knots, member), 1, len(knots) - 1)
            fraction = (member - knots[high - 1]) / (knots[high] - knots[high - 1])
            found.append((indices[high - 1], indices[high], fraction, allowed))
        return found

    def _next_in(self, lane: int, widths: Ints) -> Ints:
        """The smallest width of a lane that is at least as large; 0 stays 0."""
        if lane == 16:
            return -(-widths // 16) * 16
        odd = -(-(widths - 8) // 16) * 16 + 8 if lane == 8 else self.knots[-1]
        return np.where(widths == 0, 0, odd)


@dc.dataclass(frozen=True)
class Part:
    """Equal layer calls of a network.

    Args:
        layer: the layer.
        widths: one layout for each of its axes.
        surface: times of the layer.
        calls: number of calls.
    """

    layer: Layer
    widths: tuple[Layout, ...]
    surface: Surface
    calls: int


@dc.dataclass(frozen=True)
class LatencyCost:
    """Predicted latency of a network; fulfils `Cost`.

    A wider layer can be faster than a narrower one, at widths that fit the hardware. The narrower layer then counts as
    the wider one, since a network could use that instead. The total therefore never falls as sizes grow, and solvers
    choose the width that fits. `predict` does without this correction.

    Args:
        parts: timed layer calls.
        constant: time of every call that does not depend on sizes, ms.
        scale: factor of the layers' times.
        name: name in a budget.
        unit: unit of the total.
    """

    parts: tuple[Part, ...]
    constant: float = 0.0
    scale: float = 1.0
    name: str = "latency"
    unit: str = "ms"

    def total(self, sizes: Sizes) -> float:
        """Latency at these sizes, ms."""
        times = (part.calls * part.surface.least(_widths(part, sizes)) for part in self.parts)
        return self.constant + self.scale * sum(times)

    def curve(self, group: Group, sizes: Sizes) -> Floats:
        """Totals with this group at every size from 0 to its full size, ms."""
        return self.incremental(sizes).totals(group, np.arange(group.size + 1, dtype=np.int64))

    def incremental(self, sizes: Sizes) -> _LatencyIncrements:
        """See `edakari.core.incremental_cost.IncrementallyCosted`."""
        return _LatencyIncrements(self, sizes)

    def predict(self, sizes: Sizes) -> float:
        """Expected latency of a network with exactly these sizes, ms."""
        times = (part.calls * float(part.surface.at(*_widths(part, sizes))) for part in self.parts)
        return self.constant + self.scale * sum(times)

    def corrected(self, sizes: Sizes, measured_ms: float) -> LatencyCost:
        """Return the same cost, scaled so that its total at some sizes is the measured latency.

        Args:
            sizes: sizes of a measured network.
            measured_ms: latency of this network, ms.
        """
        return self.scaled(measured_ms / self.total(sizes))

    def scaled(self, factor: float) -> LatencyCost:
        """Return the same cost times a factor."""
        return dc.replace(self, constant=self.constant * factor, scale=self.scale * factor)


class _LatencyIncrements:
    """Latency while sizes change group by group; only layers that a changed group reaches are computed again."""

    def __init__(self, cost: LatencyCost, sizes: Sizes) -> None:
        self.cost = cost
        self.sizes = dict(sizes)
        self.times = [part.calls * part.surface.least(_widths(part, sizes)) for part in cost.parts]
        self.moving: dict[str, list[int]] = {}
        for index, part in enumerate(cost.parts):
            for name in {axis.group for layout in part.widths for axis in axes(layout)}:
                self.moving.setdefault(name, []).append(index)

    @property
    def total(self) -> float:
        """See `edakari.core.incremental_cost.IncrementalCost`."""
        return self.cost.constant + self.cost.scale * sum(self.times)

    def totals(self, group: Group, choices: Ints) -> Floats:
        """See `edakari.core.incremental_cost.IncrementalCost`."""
        moving = self.moving.get(group.name, ())
        along = np.full(len(choices), self.total - self.cost.scale * sum(self.times[index] for index in moving))
        for index in moving:
            part = self.cost.parts[index]
            widths = [extent(layout, {**self.sizes, group.name: choices}) for layout in part.widths]
            along += self.cost.scale * part.calls * part.surface.at_least(*widths)
        return along

    def move(self, name: str, size: int) -> None:
        """See `edakari.core.incremental_cost.IncrementalCost`."""
        self.sizes[name] = size
        for index in self.moving.get(name, ()):
            part = self.cost.parts[index]
            self.times[index] = part.calls * part.surface.least(_widths(part, self.sizes))


def latency_cost(graph: Graph, table: Table, groups: Sequence[Group] | None = None) -> LatencyCost:
    """Return the predicted latency of a network as a cost; it includes the network's fit if the table has one.

    Args:
        graph: graph of the network.
        table: table with the points of its layers (see `plan_measurement` and `fill`).
        groups: groups that may be pruned, with their legal sizes, as when the table was filled; None selects all.

    Raises:
        MeasurementError: the table lacks points.
    """
    uses = wanted(graph, groups)
    calls = collections.Counter((each.use.layer, each.use.widths) for each in uses)
    surfaces: dict[Any, Surface] = {}
    parts = {}
    for each in uses:
        layer, widths = each.use.layer, each.use.widths
        surface = surfaces.get((layer, each.knots)) or _surface(each, table)
        surfaces[layer, each.knots] = surface
        parts[layer, widths] = Part(layer, widths, surface, calls[layer, widths])
    fit = table.fits.get(network_key(graph))
    if fit is not None:
        return LatencyCost(tuple(parts.values()), fit.constant_ms, fit.scale)
    return LatencyCost(tuple(parts.values()), call_overhead(table, len(uses)))


def _surface(each: Wanted, table: Table) -> Surface:
    layer, points = each.use.layer, each.points()
    try:
        times = [table.samples[point].minimum_ms for point in points]
    except KeyError:
        missing = sum(point not in table.samples for point in points)
        raise MeasurementError(
            f"the latency table {table.path} lacks {missing} points of the layer {layer}; measure them first with "
            "`edakari measure MODEL --calibrate`"
        ) from None
    steps = [stepped(layer, axis) for axis in layer.axes]
    return Surface(each.knots, np.array(times).reshape([len(knots) for knots in each.knots]), steps)


def call_overhead(table: Table, operators: int) -> float:
    """Cost of a call and its operators besides their kernels, ms; from chains of tiny operators if they were timed."""
    if (Layer("chain"), CHAINS[:1]) not in table.samples:
        return 0.0
    short, long = (table.samples[Layer("chain"), (length,)].minimum_ms for length in CHAINS)
    each = max(0.0, (long - short) / (CHAINS[1] - CHAINS[0]))
    return max(0.0, short - CHAINS[0] * each) + operators * each


def _widths(part: Part, sizes: Sizes) -> tuple[int, ...]:
    return tuple(int(extent(layout, sizes)) for layout in part.widths)
