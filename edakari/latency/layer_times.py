"""The times of all layers of a network at once, for solvers that ask for them many thousand times.

The widths of layers are polynomials in the sizes of groups, nearly all of degree 1, so that one product with a matrix
gives all widths. Layers with axes of the same kinds share a bank, which finds their times by one gather from a table.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.layout import Layout, axes, extent
from edakari.core.polynomials import polynomial
from edakari.core.space import Sizes
from edakari.latency.layers import Layer, weights_of
from edakari.latency.surface import SPACING, Surface

__all__ = ["IncrementalTimes", "LayerTimes", "Part"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHIFT = SPACING.bit_length() - 1
"""Exponent of `SPACING`, which is a power of two."""
SPAN = 1 << 44
"""Distance of the knots of one surface from those of the next, along an axis of a bank; larger than any width."""


@dc.dataclass(frozen=True)
class Part:
    """Equal layer calls of a network.

    Args:
        layer: the layer.
        widths: one layout for each of its axes.
        surface: times of the layer.
        calls: number of calls; a fraction where a time lies between those of two layers.
    """

    layer: Layer
    widths: tuple[Layout, ...]
    surface: Surface
    calls: float


class LayerTimes:
    """Times of the layer calls of a network; a call takes as long as the fastest layer that is at least as wide.

    Args:
        parts: the layer calls.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.widths = _Widths.of({layout for part in self.parts for layout in part.widths})
        kinds: dict[tuple[bool, ...], list[Part]] = {}
        for part in self.parts:
            kinds.setdefault(tuple(axis.stepped for axis in part.surface.axes), []).append(part)
        self.banks = [_Bank.of(alike, self.widths.rows) for alike in kinds.values()]
        self.moves = {name: _moves(name, self.widths, self.banks) for name in self.widths.places}

    def total(self, sizes: Sizes) -> float:
        """Sum of the times of all calls at these sizes, ms."""
        return IncrementalTimes(self, sizes).total

    def exact_total(self, sizes: Sizes) -> float:
        """Sum of the times of all calls at exactly the widths of these sizes, ms."""
        return sum(
            part.calls * part.surface.at(*(int(extent(layout, sizes)) for layout in part.widths)) for part in self.parts
        )

    def weights(self, sizes: Sizes) -> float:
        """Millions of weights that all calls read at these sizes."""
        counts = (
            part.calls * weights_of(part.layer, [int(extent(layout, sizes)) for layout in part.widths])
            for part in self.parts
        )
        return sum(counts) / 1e6


class IncrementalTimes:
    """Sum of the times while sizes change group by group; only layers that a changed group reaches are timed again.

    Args:
        layers: the layer calls.
        sizes: initial sizes.
    """

    def __init__(self, layers: LayerTimes, sizes: Sizes) -> None:
        self.layers = layers
        self.point = layers.widths.point(sizes)
        self.terms = layers.widths.terms(self.point)
        self.widths = layers.widths.matrix @ self.terms
        self.times = [bank.times(self.widths[bank.rows]) for bank in layers.banks]
        self.total = self._summed()
        """Sum of the times, ms."""

    def _summed(self) -> float:
        return float(sum(times.sum() for times in self.times))

    def totals(self, name: str, choices: Ints) -> Floats:
        """Return the sum of the times with one group at each of some sizes, ms, float64 [choices].

        Args:
            name: name of the group.
            choices: sizes of the group, int64 [choices].
        """
        moves = self.layers.moves.get(name)
        if moves is None:
            return np.full(len(choices), self.total)
        change = self._terms(moves, choices) - self.terms[moves.terms, None]
        totals: Floats | float = self.total
        for each in moves.banks:
            steps = (each.slopes @ change).reshape(*each.bank.rows.shape, len(choices))
            widths = self.widths[each.bank.rows][..., None] + steps
            now = np.add.reduce(self.times[each.index][each.parts])
            totals = totals + (np.add.reduce(each.bank.times(widths), axis=0) - now)
        return np.asarray(totals)

    def _terms(self, moves: _Moves, choices: Ints) -> Floats:
        """Terms that contain a group, at each of its sizes, float64 [terms, choices]."""
        rest: Floats = self.point[moves.others[0]]
        for row in moves.others[1:]:
            rest = rest * self.point[row]
        sizes = choices.astype(np.float64)
        if moves.powers is None:
            return rest[:, None] * sizes
        return rest[:, None] * sizes ** moves.powers[:, None]

    def move(self, name: str, size: int) -> None:
        """Change the size of a group."""
        moves = self.layers.moves.get(name)
        if moves is None:
            return
        self.point[self.layers.widths.places[name]] = size
        self.terms[moves.terms] = self.layers.widths.terms(self.point, moves.terms)
        self.widths = self.layers.widths.matrix @ self.terms
        for each in moves.banks:
            self.times[each.index][each.parts] = each.bank.times(self.widths[each.bank.rows])
        self.total = self._summed()


@dc.dataclass(frozen=True)
class _Widths:
    """Extents of layouts as sums of terms, which are products of sizes.

    Args:
        rows: row of each layout in `matrix`.
        places: position of each group's size in a point.
        whole: dense sizes of the groups.
        factors: positions whose sizes are multiplied, int64 [degree, terms]; the last position of a point holds a 1.
        matrix: coefficient of each term in each extent, float64 [layouts, terms]. All values are integers, so that
            sums are exact below 2**53.
    """

    rows: Mapping[Layout, int]
    places: Mapping[str, int]
    whole: tuple[int, ...]
    factors: Ints
    matrix: Floats

    @classmethod
    def of(cls, layouts: Iterable[Layout]) -> _Widths:
        extents = {layout: polynomial(layout) for layout in layouts}
        whole = {axis.group: axis.size for layout in extents for axis in axes(layout)}
        places = {name: index for index, name in enumerate(whole)}
        terms = {names: index for index, names in enumerate({names: 0 for each in extents.values() for names in each})}
        degree = max(map(len, terms), default=0)
        factors = [[*map(places.__getitem__, names), *[len(places)] * (degree - len(names))] for names in terms]
        matrix = np.zeros((len(extents), len(terms)))
        for row, each in enumerate(extents.values()):
            for names, coefficient in each.items():
                matrix[row, terms[names]] = coefficient
        rows = {layout: row for row, layout in enumerate(extents)}
        shaped = np.array(factors, dtype=np.int64).reshape(len(terms), degree).T
        return cls(rows, places, tuple(whole.values()), shaped, matrix)

    def point(self, sizes: Sizes) -> Floats:
        """The sizes as an array, followed by a 1."""
        return np.array([*map(sizes.get, self.places, self.whole), 1], dtype=np.float64)

    def terms(self, point: Floats, which: Ints | slice = slice(None)) -> Floats:
        """Products of sizes, float64 [terms, ...].

        Args:
            point: sizes, float64 [groups + 1, ...].
            which: the terms that are wanted.
        """
        factors = self.factors[:, which]
        product = np.ones((factors.shape[1], *point.shape[1:]))
        for row in factors:
            product *= point[row]
        return product


@dc.dataclass(frozen=True)
class _Bank:
    """Layer calls whose axes are of the same kinds.

    Args:
        stepped: for each axis, whether the times are a staircase.
        table: times of all surfaces, ms, float64 [entries].
        knots: for each axis, the knots of all surfaces in succession, each raised by a multiple of `SPAN` of its own.
        rows: rows of the calls' widths, int64 [parts, axes].
        calls: number of equal calls, float64 [parts].
        bases: position of the call's surface in `table`, int64 [parts].
        strides: distance of neighbours in `table` along each axis, int64 [parts, axes].
        firsts: position of the surface's first knot in `knots` of each axis, int64 [parts, axes].
        raised: by how much its knots are raised, int64 [parts].
    """

    stepped: tuple[bool, ...]
    table: Floats
    knots: tuple[Ints, ...]
    rows: Ints
    calls: Floats
    bases: Ints
    strides: Ints
    firsts: Ints
    raised: Ints

    @classmethod
    def of(cls, parts: Sequence[Part], rows: Mapping[Layout, int]) -> _Bank:
        surfaces = list({id(part.surface): part.surface for part in parts}.values())
        tables = [surface.fastest for surface in surfaces]
        kinds = list(zip(*(surface.axes for surface in surfaces), strict=True))
        strides = np.array([table.strides for table in tables]) // tables[0].itemsize
        firsts = np.stack([_starts([len(axis.knots) for axis in every]) for every in kinds], axis=1)
        numbers = {id(surface): number for number, surface in enumerate(surfaces)}
        own = np.array([numbers[id(part.surface)] for part in parts])
        return cls(
            stepped=tuple(axis.stepped for axis in surfaces[0].axes),
            table=np.concatenate([table.ravel() for table in tables]),
            knots=tuple(np.concatenate([axis.knots + SPAN * n for n, axis in enumerate(every)]) for every in kinds),
            rows=np.array([[rows[layout] for layout in part.widths] for part in parts]),
            calls=np.array([part.calls for part in parts], dtype=np.float64),
            bases=_starts([table.size for table in tables])[own],
            strides=strides[own],
            firsts=firsts[own],
            raised=SPAN * own,
        )

    def only(self, parts: Ints) -> _Bank:
        """The same bank for some of its calls."""
        of_parts = ("rows", "calls", "bases", "strides", "firsts", "raised")
        return dc.replace(self, **{name: getattr(self, name)[parts] for name in of_parts})

    def times(self, widths: Floats) -> Floats:
        """Times of the calls, ms, float64 [parts, ...].

        Args:
            widths: width along each axis, float64 [parts, axes, ...].
        """
        more = (..., *[None] * (widths.ndim - 2))
        every, index = widths.astype(np.int64), self.bases[more]
        smooth: list[tuple[Ints, Floats]] = []
        for axis, stepped in enumerate(self.stepped):
            along, stride = every[:, axis], self.strides[:, axis][more]
            if stepped:
                index = index + (along + (SPACING - 1) >> SHIFT) * stride  # rounded up; `//` takes much longer
            else:
                below, upper = self._bracket(axis, along, more)
                index = index + below * stride
                smooth.append((stride, upper))
        return self.calls[more] * self._between(index, smooth)

    def _between(self, index: Ints, smooth: Sequence[tuple[Ints, Floats]]) -> Floats:
        """Times between an entry of the table and the next one along each axis that is no staircase, ms.

        Args:
            index: the entry.
            smooth: distance in the table, and weight of the next entry, for each of these axes.
        """
        if not smooth:
            return self.table.take(index)
        (stride, upper), *rest = smooth
        return (1.0 - upper) * self._between(index, rest) + upper * self._between(index + stride, rest)

    def _bracket(self, axis: int, widths: Ints, more: tuple[Any, ...]) -> tuple[Ints, Floats]:
        """Index of the knot below each width, and the weight of the next one."""
        knots, first, wanted = self.knots[axis], self.firsts[:, axis][more], widths + self.raised[more]
        low = np.maximum(knots.searchsorted(wanted) - 1, first)
        under = knots.take(low)
        return low - first, (wanted - under) / (knots.take(low + 1) - under)


@dc.dataclass(frozen=True)
class _Reached:
    """The calls of a bank whose widths change with a group's size.

    Args:
        index: index of the bank.
        parts: indices of the calls.
        bank: the bank with these calls alone.
        slopes: coefficient of each of the group's terms in each width, float64 [parts * axes, terms]; one product of
            matrices is much faster than one for each call.
    """

    index: int
    parts: Ints
    bank: _Bank
    slopes: Floats


@dc.dataclass(frozen=True)
class _Moves:
    """What changes with a group's size.

    Args:
        terms: the terms that contain it, int64 [terms].
        others: factors of these terms without the group, as in `_Widths.factors`, int64 [degree, terms].
        powers: power of the group in each term, float64 [terms]; None if it is 1 in all.
        banks: layer calls.
    """

    terms: Ints
    others: Ints
    powers: Floats | None
    banks: list[_Reached]


def _moves(name: str, widths: _Widths, banks: Sequence[_Bank]) -> _Moves:
    place = widths.places[name]
    terms = np.flatnonzero((widths.factors == place).any(axis=0))
    moving, reached = np.any(widths.matrix[:, terms], axis=1), []
    for index, bank in enumerate(banks):
        parts = np.flatnonzero(np.any(moving[bank.rows], axis=1))
        if len(parts):
            some = bank.only(parts)
            reached.append(_Reached(index, parts, some, widths.matrix[some.rows.ravel()][:, terms]))
    own = widths.factors[:, terms]
    powers = (own == place).sum(axis=0).astype(np.float64)
    others = np.where(own == place, len(widths.places), own)
    return _Moves(terms, others, None if (powers == 1).all() else powers, reached)


def _starts(lengths: Sequence[int]) -> Ints:
    """Position of the first entry of each of some arrays that lie in succession."""
    return np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
