"""Costs that are counted exactly from the graph: multiply-accumulates, parameters, activations."""

from __future__ import annotations

import collections
import dataclasses as dc
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.graph import Graph
from edakari.core.layout import Layout, axes, extent
from edakari.core.space import Group, Sizes

__all__ = ["Count", "activations", "macs", "params", "uncounted"]

Term = tuple[int, tuple[Layout, ...]]

FREE = frozenset(
    """
    view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze expand repeat cat stack
    split split_with_sizes slice select unbind index index_select gather clone detach alias copy_ flip roll
    zeros ones full new_zeros new_ones new_full new_empty empty empty_like zeros_like ones_like arange
    constant_pad_nd as_strided as_strided_ fill_ pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle im2col embedding lift_fresh _to_copy linspace scalar_tensor unfold tril triu eq ne
    lt le gt ge where masked_fill masked_fill_
    """.split()
)
"""Operators that only move or make values."""


@dc.dataclass(frozen=True)
class Count:
    """A polynomial in the sizes of the groups; fulfils `Cost`.

    Args:
        name: in a budget.
        unit: of the total.
        terms: each a constant times the extents of its layouts; the total is their sum.
    """

    name: str
    unit: str
    terms: tuple[Term, ...]

    def total(self, sizes: Sizes) -> float:
        """Cost at these sizes."""
        return float(_evaluate(self.terms, sizes))

    def curve(self, group: Group, sizes: Sizes) -> npt.NDArray[np.float64]:
        """Totals with this group at every size from 0 to the whole."""
        moving = self._by_group.get(group.name, ())
        rest = self.total(sizes) - float(_evaluate(moving, sizes))
        every = np.arange(group.size + 1, dtype=np.float64)
        return np.broadcast_to(rest + _evaluate(moving, {**sizes, group.name: every}), every.shape).astype(np.float64)

    @functools.cached_property
    def _by_group(self) -> Mapping[str, tuple[Term, ...]]:
        found: dict[str, list[Term]] = {}
        for term in self.terms:
            for name in {axis.group for layout in term[1] for axis in axes(layout)}:
                found.setdefault(name, []).append(term)
        return {name: tuple(terms) for name, terms in found.items()}


def _evaluate(terms: tuple[Term, ...], sizes: Mapping[str, Any]) -> Any:
    known: dict[int, Any] = {}
    total: Any = 0.0
    for constant, layouts in terms:
        value: Any = float(constant)
        for layout in layouts:
            length = known.get(id(layout))
            if length is None:
                length = known[id(layout)] = extent(layout, sizes)
            value = value * length
        total = total + value
    return total


def macs(graph: Graph) -> Count:
    """Multiply-accumulates of convolutions, linear layers, matrix products and attention, for the traced example.

    One multiply-accumulate is one, where others count it as two operations. See `uncounted` for what is left out.
    """
    return Count("macs", "MAC", tuple(term for operator in graph.operators for term in operator.macs))


def params(graph: Graph) -> Count:
    """Number of parameters; shared ones once, buffers not."""
    return Count("params", "parameter", tuple((1, graph.layouts[name]) for name in graph.parameters))


def activations(graph: Graph) -> Count:
    """Values that convolutions, linear layers, matrix products and attention write, for the traced example."""
    return Count(
        "activations", "value", tuple((1, operator.outputs[0]) for operator in graph.operators if operator.macs)
    )


def uncounted(graph: Graph) -> dict[str, int]:
    """Operators that compute and are not among the multiply-accumulates: name to number of calls, most calls first."""
    calls = collections.Counter(
        operator.name
        for operator in graph.operators
        if not operator.macs and operator.name.removeprefix("aten.") not in FREE
    )
    return dict(calls.most_common())
