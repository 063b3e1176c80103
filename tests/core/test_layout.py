"""The layout algebra: the number of positions and the kept positions agree for every tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.layout import Axis, Concat, Fixed, Layout, Product, axes, extent, from_json, kept, to_json
from edakari.errors import PlanError

SIZES = {"a": 3, "b": 2, "c": 5}

leaves = st.one_of(
    st.integers(1, 4).map(Fixed), st.sampled_from(sorted(SIZES)).map(lambda name: Axis(name, SIZES[name]))
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda parts: st.sampled_from([Product(tuple(parts)), Concat(tuple(parts))])
    ),
    max_leaves=5,
)
masks = st.fixed_dictionaries(
    {},
    optional={
        name: st.lists(st.booleans(), min_size=size, max_size=size).map(lambda flags: np.array(flags, dtype=np.bool_))
        for name, size in SIZES.items()
    },
)


@given(trees, masks)
def test_extent_is_the_number_of_kept_positions(layout: Layout, mask: dict[str, np.ndarray]) -> None:
    sizes = {name: int(flags.sum()) for name, flags in mask.items()}
    assert extent(layout, sizes) == kept(layout, mask).sum()
    assert len(kept(layout, mask)) == extent(layout, {})


@given(trees)
def test_json_round_trip(layout: Layout) -> None:
    assert from_json(to_json(layout)) == layout


@given(trees)
def test_a_whole_layout_keeps_everything(layout: Layout) -> None:
    assert kept(layout, {}).all()
    assert {axis.group for axis in axes(layout)} <= set(SIZES)


def test_extent_broadcasts_over_arrays() -> None:
    layout = Concat((Product((Axis("a", 3), Fixed(4))), Axis("b", 2)))
    np.testing.assert_array_equal(extent(layout, {"a": np.arange(4)}), np.arange(4) * 4 + 2)


def test_a_product_varies_its_last_part_fastest() -> None:
    mask = kept(Product((Axis("a", 3), Axis("b", 2))), {"a": np.array([1, 0, 1], bool), "b": np.array([0, 1], bool)})
    assert mask.tolist() == [False, True, False, False, False, True]


@pytest.mark.parametrize("value", [None, True, "a", ["a"], ["a", "b"], {"sum": [1]}, {"product": 3}, 1.5])
def test_what_is_not_a_layout_is_refused(value: object) -> None:
    with pytest.raises(PlanError, match="not the layout"):
        from_json(value)
