"""Prices settle where the terms that bind are just met."""

from __future__ import annotations

import numpy as np
import pytest

from edakari.solve.prices import Prices


def test_prices_settle_at_the_limits_and_vanish_where_none_binds() -> None:
    prices = Prices.start(100.0, np.array([5.0, 20.0, 4.0]))
    for _ in range(80):
        # demand falls with the price; the last term never binds
        prices = prices.after(np.array([2.0, 30.0, 0.5]) > prices.now * np.array([1.0, 1.0, np.inf]))
    assert prices.now[:2] == pytest.approx([2.0, 30.0], rel=1e-3)
    assert prices.now[2] < 1e-6


def test_a_cost_that_cannot_change_has_no_price() -> None:
    prices = Prices.start(10.0, np.array([1.0, 0.0]))
    assert prices.now.tolist() == [5.0, 0.0]
    assert prices.after(np.array([True, True])).now.tolist() == [20.0, 0.0]
