"""The algebra of axes: whatever is refined, a dimension keeps its size and its positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.layout import Axis, Concat, Fixed, Product, kept
from edakari.graph import algebra
from edakari.graph.algebra import (
    DimAxis,
    DimConcat,
    DimProduct,
    concat,
    cut,
    pin,
    product,
    resolve,
    size,
    split,
    unify,
)
from edakari.graph.freezing import freeze, pinned, thaw
from edakari.graph.reshape import regroup


@st.composite
def expressions(draw, depth: int = 2):
    kind = draw(st.sampled_from(["axis", "fixed"] + (["product", "concat"] if depth else [])))
    if kind == "axis":
        return DimAxis(draw(st.integers(2, 12)))
    if kind == "fixed":
        return draw(st.integers(1, 6))
    parts = draw(st.lists(expressions(depth - 1), min_size=2, max_size=3))
    return DimProduct(parts) if kind == "product" else DimConcat(parts)


def positions(expression):
    """For each position, the channels of axes that it needs."""
    expression = resolve(expression)
    if isinstance(expression, int):
        return [frozenset()] * expression
    if isinstance(expression, DimAxis):
        return [frozenset({(id(expression), i)}) for i in range(expression.size)]
    if isinstance(expression, DimConcat):
        return [position for part in expression for position in positions(part)]
    nested = [frozenset()]
    for part in expression:
        nested = [outer | inner for outer in nested for inner in positions(part)]
    return nested


@given(expressions())
def test_canonical_form_keeps_the_size_and_is_stable(expression):
    resolved = resolve(expression)
    assert size(resolved) == size(expression)
    assert resolve(resolved) == resolved
    if isinstance(resolved, DimProduct):
        assert len(resolved) > 1
        assert not any(isinstance(part, DimProduct) or part == 1 for part in resolved)


@given(expressions(), st.data())
def test_a_split_multiplies_back(expression, data):
    total = size(expression)
    outer = data.draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
    halves = split(expression, outer)
    if halves is not None:
        assert (size(halves[0]), size(halves[1])) == (outer, total // outer)
        assert positions(DimProduct(halves)) == positions(expression)


@given(expressions(), st.data())
def test_a_cut_adds_up_and_loses_no_axis(expression, data):
    total = size(expression)
    at = data.draw(st.integers(0, total))
    halves = cut(expression, at)
    if halves is not None:
        assert (size(halves[0]), size(halves[1])) == (at, total - at)
        assert positions(halves[0]) + positions(halves[1]) == positions(expression)


@st.composite
def described(draw, total: int, depth: int = 2):
    """A description of just `total` positions."""
    kind = draw(st.sampled_from(["axis", "axis", "fixed", *(["product", "concat"] if depth and total > 1 else [])]))
    if kind == "fixed" or total == 1:
        return total
    if kind == "axis":
        return DimAxis(total)
    if kind == "product":
        outer = draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
        return DimProduct((draw(described(outer, depth - 1)), draw(described(total // outer, depth - 1))))
    first = draw(st.integers(1, total - 1))
    return DimConcat((draw(described(first, depth - 1)), draw(described(total - first, depth - 1))))


@given(described(24), described(24), described(24))
def test_unified_dimensions_are_one_dimension(first, second, third):
    unify(first, second, "test")
    assert positions(first) == positions(second)
    unify(second, third, "test")
    assert positions(first) == positions(second) == positions(third)


def test_a_head_axis_falls_out_of_a_reshape():
    width = DimAxis(3 * 4 * 8)
    three, heads, dim = regroup([width], [3, 4, 8], "test")
    assert [size(part) for part in (three, heads, dim)] == [3, 4, 8]
    assert resolve(width) == DimProduct((three, heads, dim))


def test_a_reshape_back_gives_the_same_axis():
    channels = DimAxis(12)
    parts = regroup([2, channels, 49], [2, 3, 4, 7, 7], "test")
    back = regroup(parts, [2, 12, 49], "test")
    assert resolve(back[1]) == resolve(channels)
    assert not list(pinned(channels))


def test_a_reshape_across_axes_pins_them_with_the_reason():
    a, b = DimAxis(4), DimAxis(6)
    assert regroup([a, b], [6, 4], "across") == [6, 4]
    assert {reason for axis in (a, b) for _, reason in pinned(axis)} == {"across"}


def test_equal_pieces_of_a_concatenation_are_coupled():
    a, b = DimAxis(8), DimAxis(8)
    outer, inner = split(concat([a, b]), 2)
    assert resolve(a) is resolve(b) is resolve(inner)
    assert size(outer) == 2


def test_concatenations_are_aligned_at_every_boundary():
    a, b, c = DimAxis(4), DimAxis(8), DimAxis(12)
    whole = DimAxis(12)
    unify(concat([a, b]), whole, "test")
    unify(whole, c, "test")
    assert resolve(c) == DimConcat((resolve(a), resolve(b)))


def test_an_axis_cannot_be_a_part_of_itself():
    a = DimAxis(8)
    unify(a, DimProduct((a, 1, 1)), "self")
    assert not list(pinned(a))
    b = DimAxis(4)
    unify(concat([b, 4]), product([2, b]), "self")
    assert size(b) == 4


def test_a_pinned_axis_is_a_plain_run():
    a = DimAxis(5)
    pin(a, "because")
    assert resolve(DimProduct((a, 2))) == 10
    assert list(pinned(DimProduct((a, 2)))) == [(5, "because")]


def test_a_part_pinned_inside_of_a_product_takes_nothing_away():
    three, width = DimAxis(3), DimAxis(8)
    pin(three, "unbound")
    assert not list(pinned(DimProduct((three, width))))


def test_a_named_axis_keeps_its_place():
    named, other = DimAxis(4, group="conv1"), DimAxis(4)
    unify(named, other, "test")
    assert resolve(other) is named
    assert resolve(named) is named


@pytest.mark.parametrize("shape", [(24,), (2, 12), (4, 6), (2, 3, 4), (1, 24, 1)])
def test_reshapes_of_fixed_dimensions_are_free(shape):
    assert regroup([2, 3, 4], list(shape), "test") == list(shape)
    assert math.prod(shape) == 24


def test_fresh_axes_have_more_than_one_position():
    assert algebra.fresh(1) == 1
    assert isinstance(algebra.fresh(2), DimAxis)


GROUPS = {name: DimAxis(size, group=name) for name, size in (("a", 4), ("b", 6), ("c", 10))}


@st.composite
def layouts(draw, depth: int = 2):
    kind = draw(st.sampled_from(["axis", "fixed"] + (["product", "concat"] if depth else [])))
    if kind == "axis":
        name = draw(st.sampled_from(sorted(GROUPS)))
        return Axis(name, GROUPS[name].size)
    if kind == "fixed":
        return Fixed(draw(st.integers(1, 6)))
    parts = tuple(draw(st.lists(layouts(depth - 1), min_size=2, max_size=3)))
    return Product(parts) if kind == "product" else Concat(parts)


@given(layouts(), st.randoms(use_true_random=False))
def test_a_layout_that_is_thawed_and_frozen_keeps_the_same_positions(layout, random):
    known = {axis: Axis(name, axis.size) for name, axis in GROUPS.items()}
    again = freeze(thaw(layout, GROUPS), known)
    masks = {name: np.array([random.random() < 0.5 for _ in range(axis.size)]) for name, axis in GROUPS.items()}
    assert np.array_equal(kept(again, masks), kept(layout, masks))
    assert freeze(thaw(again, GROUPS), known) == again


def test_axes_that_are_no_groups_freeze_to_what_stays():
    a = DimAxis(4)
    assert freeze(DimProduct([a, 3]), {}) == Fixed(12)
    assert freeze(DimConcat([a, 2]), {a: Axis("a", 4)}) == Concat((Axis("a", 4), Fixed(2)))
    known = {}
    assert freeze(7, known) is freeze(DimAxis(7), known)
