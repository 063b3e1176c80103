"""Predicts the latency of a whole network from a table of layers; the prediction is a cost like any other.

The latency is a constant, plus a scale times the sum of the layers' times, plus a time for each weight: networks with
many weights take longer than their layers together. Each layer's time is interpolated bilinearly between the knots of
its grid, lane by lane (see `grid`). A layer's time is its fastest call, because noise only adds time: on a busy
machine, a table of medians erred by 13 % on ViT-S, and a table of minima from the same calls erred by 4 %. At first,
the constant is the cost of a call and its operators, the scale is 1, and weights add nothing. A calibration fits all
three.
"""

from __future__ import annotations

import collections
import dataclasses as dc
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.graph import Graph
from edakari.core.space import Group, Sizes
from edakari.errors import MeasurementError
from edakari.latency.grid import stepped
from edakari.latency.layer_times import IncrementalTimes, LayerTimes, Part
from edakari.latency.layers import Layer, weights_of
from edakari.latency.measure_table import CHAINS, Wanted, wanted
from edakari.latency.surface import Surface
from edakari.latency.table import Table, network_key

__all__ = ["LatencyCost", "call_overhead", "latency_cost", "operator_overhead", "surface_of"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dc.dataclass(frozen=True)
class LatencyCost:
    """Predicted latency of a network; fulfils `Cost`.

    A wider layer can be faster than a narrower one, at widths that fit the hardware. The narrower layer then counts as
    the wider one, since a network could use that instead. The total therefore never falls as sizes grow, and solvers
    choose the width that fits. `predict` does without this correction.

    Args:
        layers: timed layer calls.
        constant: time of every call that does not depend on sizes, ms.
        scale: factor of the layers' times.
        name: name in a budget.
        unit: unit of the total.
    """

    layers: LayerTimes
    constant: float = 0.0
    scale: float = 1.0
    name: str = "latency"
    unit: str = "ms"

    def total(self, sizes: Sizes) -> float:
        """Latency at these sizes, ms."""
        return self.constant + self.scale * self.layers.total(sizes)

    def curve(self, group: Group, sizes: Sizes) -> Floats:
        """Totals with this group at every size from 0 to its full size, ms."""
        return self.incremental(sizes).totals(group, np.arange(group.size + 1, dtype=np.int64))

    def incremental(self, sizes: Sizes) -> _LatencyIncrements:
        """See `edakari.core.incremental_cost.IncrementallyCosted`."""
        return _LatencyIncrements(IncrementalTimes(self.layers, sizes), self.constant, self.scale)

    def predict(self, sizes: Sizes) -> float:
        """Expected latency of a network with exactly these sizes, ms."""
        return self.constant + self.scale * self.layers.exact_total(sizes)

    def weights(self, sizes: Sizes) -> float:
        """Millions of weights that a call reads."""
        return self.layers.weights(sizes)

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

    def named(self, name: str) -> LatencyCost:
        """Return the same cost under another name in a budget, such as "latency@pi"."""
        return dc.replace(self, name=name)


@dc.dataclass(frozen=True)
class _LatencyIncrements:
    """See `edakari.core.incremental_cost.IncrementalCost`."""

    times: IncrementalTimes
    constant: float
    scale: float

    @property
    def total(self) -> float:
        return self.constant + self.scale * self.times.total

    def totals(self, group: Group, choices: Ints) -> Floats:
        return self.constant + self.scale * self.times.totals(group.name, choices)

    def move(self, name: str, size: int) -> None:
        self.times.move(name, size)


def latency_cost(graph: Graph, table: Table, groups: Sequence[Group] | None = None) -> LatencyCost:
    """Return the predicted latency of a network as a cost; it includes the network's fit if the table has one.

    Args:
        graph: graph of the network.
        table: table with the points of its layers (see `plan_measurement` and `fill`).
        groups: groups that may be pruned, with their legal sizes, as when the table was filled; None selects all.

    Raises:
        MeasurementError: the table lacks points.
    """
    uses, fit = wanted(graph, groups), table.fits.get(network_key(graph))
    per_weight = fit.weights_ms / fit.scale / 1e6 if fit else 0.0
    calls = collections.Counter((each.use.layer, each.use.widths) for each in uses)
    surfaces: dict[Any, Surface] = {}
    parts = {}
    for each in uses:
        layer, widths = each.use.layer, each.use.widths
        surface = surfaces.get((layer, each.knots)) or surface_of(each, table, per_weight)
        surfaces[layer, each.knots] = surface
        parts[layer, widths] = Part(layer, widths, surface, calls[layer, widths])
    layers = LayerTimes(tuple(parts.values()))
    if fit is not None:
        return LatencyCost(layers, fit.constant_ms, fit.scale)
    return LatencyCost(layers, call_overhead(table, len(uses)))


def surface_of(each: Wanted, table: Table, per_weight: float) -> Surface:
    """Return the times of a layer with the time of its weights, which are products of widths, so bilinear as well.

    Args:
        each: the layer call.
        table: table with the points of the layer.
        per_weight: time of a weight, ms.

    Raises:
        MeasurementError: the table lacks points.
    """
    layer, points = each.use.layer, each.points()
    try:
        times = [table.samples[point].minimum_ms + per_weight * weights_of(*point) for point in points]
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
    each = operator_overhead(table)
    return max(0.0, table.samples[Layer("chain"), CHAINS[:1]].minimum_ms - CHAINS[0] * each) + operators * each


def operator_overhead(table: Table) -> float:
    """Cost of an operator besides its kernel, ms; 0 if no chains of tiny operators were timed."""
    if (Layer("chain"), CHAINS[:1]) not in table.samples:
        return 0.0
    short, long = (table.samples[Layer("chain"), (length,)].minimum_ms for length in CHAINS)
    return max(0.0, (long - short) / (CHAINS[1] - CHAINS[0]))
