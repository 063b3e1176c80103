"""Which widths are timed."""

from __future__ import annotations

import pytest

from edakari.core.layout import Axis, Concat, Fixed, Product
from edakari.core.space import Group
from edakari.latency import Layer
from edakari.latency.grid import knots_of, lanes, reachable

CONV = Layer("convolution")


def test_lanes_are_the_alignment():
    assert lanes([1, 4, 8, 12, 16, 24, 32, 66]).tolist() == [0, 0, 8, 0, 16, 8, 16, 0]


@pytest.mark.parametrize("step", [1, 4, 8, 16])
@pytest.mark.parametrize("size", [7, 64, 100, 512])
def test_knots_hold_the_ends_of_every_lane_that_sizes_reach(step, size):
    knots = set(knots_of(CONV, "out", [*range(step, size, step), size]))
    padded = {min(-(-width // 8) * 8, size) for width in (*range(step, size, step), size)}
    assert size in knots
    for lane in (16, 8) if size > 16 else ():
        members = sorted(width for width in padded if lanes(width) == lane)
        assert {*members[:1], *members[-1:]} <= knots
    assert len(knots) <= 25


def test_knots_lie_behind_the_steps():
    assert {8, 16, 24, 32, 40, 64, 72, 128, 136} <= set(knots_of(CONV, "in", range(1, 257)))


def test_a_finer_step_of_the_groups_asks_for_no_other_knots():
    assert knots_of(CONV, "in", range(1, 257)) == knots_of(CONV, "in", range(8, 257, 8))


def test_fixed_widths_and_smooth_ones_take_few_points():
    assert knots_of(CONV, "in", [3]) == (3,)
    assert knots_of(Layer("attention"), "heads", range(1, 13)) == (1, 2, 4, 8, 12)
    depthwise = Layer("grouped_convolution", (("ratio", (1, 1)),))
    assert knots_of(depthwise, "groups", range(8, 65, 8)) == knots_of(CONV, "out", range(8, 65, 8))


GROUPS = {"a": Group("a", "channel", 32, step=8), "b": Group("b", "head", 3)}


@pytest.mark.parametrize(
    ("layout", "extents"),
    [
        (Fixed(5), [5]),
        (Axis("other", 7), [7]),
        (Axis("a", 32), [8, 16, 24, 32]),
        (Product((Fixed(3), Axis("b", 3))), [3, 6, 9]),
        (Product((Axis("b", 3), Axis("a", 32))), [8, 16, 24, 32, 48, 64, 72, 96]),
        (Concat((Axis("a", 32), Fixed(1))), [9, 17, 25, 33]),
        (Concat((Axis("a", 32), Axis("a", 32))), [16, 32, 48, 64]),
    ],
)
def test_reachable_extents(layout, extents):
    assert reachable(layout, GROUPS).tolist() == extents


def test_extents_found_for_other_layouts_first_are_the_same():
    parts = (Axis("a", 32), Fixed(1), Axis("b", 3), Axis("c", 5))
    known: dict[object, object] = {}
    for kind in (Concat, Product):
        for count in range(1, 5):
            layout = kind(parts[:count])
            assert reachable(layout, GROUPS, known).tolist() == reachable(layout, GROUPS).tolist()
