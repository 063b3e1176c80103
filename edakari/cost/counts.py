"""Costs that are counted exactly from the graph: multiply-accumulates, parameters, activations."""

from __future__ import annotations

import collections
import dataclasses as dc
import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edakari.core.graph import Graph
from edakari.core.layout import Layout, axes
from edakari.core.polynomials import Monomials, multiplied, polynomial
from edakari.core.space import Group, Sizes
from edakari.graph.operators import Trait, having

__all__ = ["Count", "activations", "flops", "macs", "params", "size", "uncounted"]

Term = tuple[int, tuple[Layout, ...]]

FREE = having(Trait.FREE)
"""Operators that only move or make values."""


@dc.dataclass(frozen=True)
class Count:
    """A polynomial in the sizes of the groups; fulfils `Cost`.

    Args:
        name: name in a budget.
        unit: unit of the total.
        terms: products of a constant and the extents of layouts; the total is their sum.
    """

    name: str
    unit: str
    terms: tuple[Term, ...]

    def total(self, sizes: Sizes) -> float:
        """Cost at these sizes."""
        compiled = self._compiled
        return compiled.every.at(compiled.point(sizes))

    def curve(self, group: Group, sizes: Sizes) -> npt.NDArray[np.float64]:
        """Totals with this group at every size from 0 to its full size."""
        compiled = self._compiled
        point = compiled.point({**sizes, group.name: 0})
        curve = np.full(group.size + 1, compiled.every.at(point))
        power = every = np.arange(group.size + 1, dtype=np.float64)
        for factor in compiled.factors.get(group.name, ()):
            curve += factor.at(point) * power
            power = power * every
        return curve

    def incremental(self, sizes: Sizes) -> _CountIncrements:
        """See `edakari.core.incremental_cost.IncrementallyCosted`."""
        return _CountIncrements(self._compiled, sizes)

    @functools.cached_property
    def _compiled(self) -> _Compiled:
        return _compile(self.terms)


class _CountIncrements:
    """A polynomial at a point; a step only computes the monomials that contain the group that changes.

    All values are integers, so the total stays exact after any number of steps, below 2**53.
    """

    def __init__(self, compiled: _Compiled, sizes: Sizes) -> None:
        self.compiled = compiled
        self.at = compiled.point(sizes)
        self.total = compiled.every.at(self.at)

    def totals(self, group: Group, choices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """See `edakari.core.incremental_cost.IncrementalCost`."""
        index = self.compiled.index.get(group.name)
        if index is None:
            return np.full(len(choices), self.total)
        now, every = self.at[index], choices.astype(np.float64)
        # Horner's scheme, from the highest power down
        here, along = 0.0, np.zeros(len(choices))
        for factor in reversed(self.compiled.factors.get(group.name, ())):
            slope = factor.at(self.at)
            here, along = (here + slope) * now, (along + slope) * every
        return along + (self.total - here)

    def move(self, name: str, size: int) -> None:
        """See `edakari.core.incremental_cost.IncrementalCost`."""
        index = self.compiled.index.get(name)
        if index is None:
            return
        now, then = self.at[index], float(size)
        for power, factor in enumerate(self.compiled.factors.get(name, ()), start=1):
            self.total += factor.at(self.at) * (then**power - now**power)
        self.at[index] = then


@dc.dataclass(frozen=True, slots=True)
class _Polynomial:
    """Coefficients, float64 [monomials], and the indices of each one's sizes, int64 [degree, monomials]."""

    coefficients: npt.NDArray[np.float64]
    indices: npt.NDArray[np.int64]

    def at(self, point: npt.NDArray[np.float64]) -> float:
        # All values are integers, so that sums are exact in any order as long as they are below 2**53.
        # The factors are multiplied row by row, since `prod` along an axis would take most of the time.
        product = self.coefficients
        for row in self.indices:
            product = product * point[row]
        return float(product.sum())


@dc.dataclass(frozen=True, slots=True)
class _Compiled:
    """A polynomial, and for each group the factors of the first, second, … power of its size."""

    whole: Mapping[str, int]
    index: Mapping[str, int]
    every: _Polynomial
    factors: Mapping[str, tuple[_Polynomial, ...]]

    def point(self, sizes: Sizes) -> npt.NDArray[np.float64]:
        """The sizes as an array, followed by a one that fills up monomials of lower degree."""
        return np.array([*map(sizes.get, self.whole.keys(), self.whole.values()), 1], dtype=np.float64)


def macs(graph: Graph) -> Count:
    """Multiply-accumulates of convolutions, linear layers, matrix products and attention, for the traced example.

    One multiply-accumulate counts as one; some tools count it as two operations. `uncounted` lists what is left out.
    """
    terms = (
        (constant, (*layouts, *graph.enclosing_branches(index)))
        for index, operator in enumerate(graph.operators)
        for constant, layouts in operator.macs
    )
    return Count("macs", "MAC", tuple(terms))


def flops(graph: Graph) -> Count:
    """Floating-point operations; by the usual convention, twice the multiply-accumulates; see `macs`."""
    return Count("flops", "FLOP", tuple((2 * constant, layouts) for constant, layouts in macs(graph).terms))


def params(graph: Graph) -> Count:
    """Number of parameters; shared ones count once, buffers do not count."""
    terms = ((1, (*graph.layouts[name], *graph.enclosing_branches_of_tensor(name))) for name in graph.parameters)
    return Count("params", "parameter", tuple(terms))


def size(graph: Graph) -> Count:
    """Size of the weights on disk, bytes: parameters and buffers in their own types, without the file's header."""
    terms = (
        (width, (*graph.layouts[name], *graph.enclosing_branches_of_tensor(name)))
        for name, width in graph.stored.items()
    )
    return Count("size", "B", tuple(terms))


def activations(graph: Graph) -> Count:
    """Values that convolutions, linear layers, matrix products and attention write, for the traced example."""
    terms = (
        (1, (*operator.outputs[0], *graph.enclosing_branches(index)))
        for index, operator in enumerate(graph.operators)
        if operator.macs
    )
    return Count("activations", "value", tuple(terms))


def uncounted(graph: Graph) -> dict[str, int]:
    """Computing operators that `macs` does not count: name and number of calls, most calls first."""
    calls = collections.Counter(
        operator.name for operator in graph.operators if not operator.macs and operator.name not in FREE
    )
    return dict(calls.most_common())


def _compile(terms: tuple[Term, ...]) -> _Compiled:
    whole = {axis.group: axis.size for _, layouts in terms for layout in layouts for axis in axes(layout)}
    position = {name: index for index, name in enumerate(whole)}
    monomials = _expanded(terms)
    factors: dict[str, list[Monomials]] = {}
    for names, coefficient in monomials.items():
        for name in set(names):
            powers = factors.setdefault(name, [])
            powers += [{} for _ in range(names.count(name) - len(powers))]
            powers[names.count(name) - 1][tuple(other for other in names if other != name)] = coefficient
    return _Compiled(
        whole,
        position,
        _packed(monomials, position),
        {name: tuple(_packed(power, position) for power in powers) for name, powers in factors.items()},
    )


def _expanded(terms: tuple[Term, ...]) -> Monomials:
    """The sum of all terms, multiplied out."""
    extents: dict[Layout, Monomials] = {}
    total: Monomials = collections.Counter()
    for constant, layouts in terms:
        product: Monomials = {(): constant}
        for layout in layouts:
            if layout not in extents:
                extents[layout] = polynomial(layout)
            product = multiplied(product, extents[layout])
        for names, coefficient in product.items():
            total[names] += coefficient
    return total


def _packed(monomials: Monomials, index: Mapping[str, int]) -> _Polynomial:
    degree = max(map(len, monomials), default=0)
    indices = [[*(index[name] for name in names), *[len(index)] * (degree - len(names))] for names in monomials]
    return _Polynomial(
        np.array(list(monomials.values()), dtype=np.float64),
        np.array(indices, dtype=np.int64).reshape(len(monomials), degree).T,
    )
