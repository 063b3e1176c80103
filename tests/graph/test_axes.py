"""The algebra of axes: whatever is refined, a dimension keeps its size and its positions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edakari.graph import axes
from edakari.graph.axes import (
    Axis,
    Concat,
    Product,
    concat,
    cut,
    pin,
    pins,
    product,
    resolve,
    size,
    split,
    unify,
)
from edakari.graph.reshape import regroup


@st.composite
def expressions(draw, depth: int = 2):
    kind = draw(st.sampled_from(["axis", "fixed"] + (["product", "concat"] if depth else [])))
    if kind == "axis":
        return Axis(draw(st.integers(2, 12)))
    if kind == "fixed":
        return draw(st.integers(1, 6))
    parts = draw(st.lists(expressions(depth - 1), min_size=2, max_size=3))
    return Product(parts) if kind == "product" else Concat(parts)


def positions(expression):
    """For each position, the channels of axes that it needs."""
    expression = resolve(expression)
    if isinstance(expression, int):
        return [frozenset()] * expression
    if isinstance(expression, Axis):
        return [frozenset({(id(expression), i)}) for i in range(expression.size)]
    if isinstance(expression, Concat):
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
    if isinstance(resolved, Product):
        assert len(resolved) > 1
        assert not any(isinstance(part, Product) or part == 1 for part in resolved)


@given(expressions(), st.data())
def test_a_split_multiplies_back(expression, data):
    total = size(expression)
    outer = data.draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
    halves = split(expression, outer)
    if halves is not None:
        assert (size(halves[0]), size(halves[1])) == (outer, total // outer)
        assert positions(Product(halves)) == positions(expression)


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
        return Axis(total)
    if kind == "product":
        outer = draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
        return Product((draw(described(outer, depth - 1)), draw(described(total // outer, depth - 1))))
    first = draw(st.integers(1, total - 1))
    return Concat((draw(described(first, depth - 1)), draw(described(total - first, depth - 1))))


@given(described(24), described(24), described(24))
def test_unified_dimensions_are_one_dimension(first, second, third):
    unify(first, second, "test")
    assert positions(first) == positions(second)
    unify(second, third, "test")
    assert positions(first) == positions(second) == positions(third)


def test_a_head_axis_falls_out_of_a_reshape():
    width = Axis(3 * 4 * 8)
    three, heads, dim = regroup([width], [3, 4, 8], "test")
    assert [size(part) for part in (three, heads, dim)] == [3, 4, 8]
    assert resolve(width) == Product((three, heads, dim))


def test_a_reshape_back_gives_the_same_axis():
    channels = Axis(12)
    parts = regroup([2, channels, 49], [2, 3, 4, 7, 7], "test")
    back = regroup(parts, [2, 12, 49], "test")
    assert resolve(back[1]) == resolve(channels)
    assert not list(pins(channels))


def test_a_reshape_across_axes_pins_them_with_the_reason():
    a, b = Axis(4), Axis(6)
    assert regroup([a, b], [6, 4], "across") == [6, 4]
    assert {reason for axis in (a, b) for _, reason in pins(axis)} == {"across"}


def test_equal_pieces_of_a_concatenation_are_coupled():
    a, b = Axis(8), Axis(8)
    outer, inner = split(concat([a, b]), 2)
    assert resolve(a) is resolve(b) is resolve(inner)
    assert size(outer) == 2


def test_concatenations_are_aligned_at_every_boundary():
    a, b, c = Axis(4), Axis(8), Axis(12)
    whole = Axis(12)
    unify(concat([a, b]), whole, "test")
    unify(whole, c, "test")
    assert resolve(c) == Concat((resolve(a), resolve(b)))


def test_an_axis_cannot_be_a_part_of_itself():
    a = Axis(8)
    unify(a, Product((a, 1, 1)), "self")
    assert not list(pins(a))
    b = Axis(4)
    unify(concat([b, 4]), product([2, b]), "self")
    assert size(b) == 4


def test_a_pinned_axis_is_a_plain_run():
    a = Axis(5)
    pin(a, "because")
    assert resolve(Product((a, 2))) == 10
    assert list(pins(Product((a, 2)))) == [(5, "because")]


def test_a_part_pinned_inside_of_a_product_takes_nothing_away():
    three, width = Axis(3), Axis(8)
    pin(three, "unbound")
    assert not list(pins(Product((three, width))))


def test_a_named_axis_keeps_its_place():
    named, other = Axis(4, group="conv1"), Axis(4)
    unify(named, other, "test")
    assert resolve(other) is named
    assert resolve(named) is named


@pytest.mark.parametrize("shape", [(24,), (2, 12), (4, 6), (2, 3, 4), (1, 24, 1)])
def test_reshapes_of_fixed_dimensions_are_free(shape):
    assert regroup([2, 3, 4], list(shape), "test") == list(shape)
    assert math.prod(shape) == 24


def test_fresh_axes_have_more_than_one_position():
    assert axes.fresh(1) == 1
    assert isinstance(axes.fresh(2), Axis)
