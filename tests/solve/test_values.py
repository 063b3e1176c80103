"""Values of sizes: concave ones, against their closed forms and brute force over all sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edakari.core.budget import Limits
from edakari.core.space import Group, dense_sizes, legal_sizes
from edakari.errors import SettingsError
from edakari.solve import Knapsack, scarce
from edakari.solve.spend import worth_of
from edakari.testing import ProductCost


def summed(scores: list[float]) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(sorted(scores, reverse=True))])


def test_scarce_values_by_hand() -> None:
    found = scarce({"a": summed([1.0, 3.0]), "dead": np.zeros(3)}, 2)
    assert found["a"] == pytest.approx([0, 3 / 0.75**2, 3 / 0.75**2 + 1])
    assert found["dead"].tolist() == [0, 0, 0]


SCORES = st.lists(st.floats(0, 10), min_size=1, max_size=12).filter(lambda scores: sum(scores) > 1e-3)


@settings(max_examples=100, deadline=None)
@given(SCORES, st.floats(0, 4), st.floats(0.1, 100))
def test_scarce_values_rise_ever_more_slowly_and_add_up_at_power_0(
    scores: list[float], power: float, unit: float
) -> None:
    plain = {"a": summed(scores)}
    assert scarce(plain, 0) is plain
    value = scarce(plain, power)["a"]
    steps, own = np.diff(value), np.diff(plain["a"])
    assert (steps >= own - 1e-12).all()
    assert (np.diff(steps) <= 1e-9 * value[-1]).all()
    assert steps[-1] == pytest.approx(own[-1])  # the first channel to go is worth its own score
    assert scarce({"a": unit * plain["a"]}, power)["a"] == pytest.approx(unit * value)


@pytest.mark.parametrize("part", [0.25, 0.5, 0.875])
def test_power_2_is_the_ratio_of_error_to_signal(part: float) -> None:
    size = 8000
    value = scarce({"a": summed([1 / size] * size)}, 2)["a"]
    lost = value[-1] - value[round((1 - part) * size)]
    assert lost == pytest.approx(part / (1 - part), rel=2e-3)


def two_groups(price: float) -> tuple[list[Group], dict[str, np.ndarray], Limits]:
    groups = [Group("cheap", "channel", 64), Group("dear", "channel", 64)]
    values = {group.name: summed([1.0] * 64) for group in groups}
    cost = ProductCost(dense_sizes(groups), ((1.0, ("cheap",)), (price, ("dear",))))
    return groups, values, Limits(((cost, 0.5 * cost.total({})),))


def test_scarce_values_do_not_take_a_dear_group_to_its_least() -> None:
    groups, values, limits = two_groups(price=3.0)
    assert Knapsack().allocate(groups, values, limits) == {"cheap": 64, "dear": 21}
    sizes = Knapsack(scarcity=2.0).allocate(groups, values, limits)
    # of equal groups, sizes go with 1 / sqrt(price) at the best sizes: 128 / (1 + sqrt(3)) = 46.9 of the cheap one
    assert abs(sizes["cheap"] - 46.9) < 2
    assert abs(sizes["dear"] - 46.9 / 3**0.5) < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([0.5, 1.0, 2.0]))
def test_scarce_knapsacks_end_in_the_best_sizes(seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    groups = [Group(name, "channel", int(rng.integers(2, 9)), int(rng.choice([1, 3]))) for name in "abcd"]
    values = {group.name: summed(rng.lognormal(0, 1, group.size).tolist()) for group in groups}
    cost = ProductCost(dense_sizes(groups), tuple((float(rng.integers(1, 9)), (name,)) for name in "abcd"))
    smallest = {group.name: legal_sizes(group)[0] for group in groups}
    limits = Limits(((cost, (cost.total({}) + cost.total(smallest)) / 2),))
    worths = scarce(values, power)
    grid = (dict(zip("abcd", sizes, strict=True)) for sizes in itertools.product(*map(legal_sizes, groups)))
    best = max(worth_of(worths, sizes) for sizes in grid if limits.excess(sizes) <= 0)
    sizes = Knapsack(scarcity=power).allocate(groups, values, limits)
    assert worth_of(worths, sizes) == pytest.approx(best)


@pytest.mark.parametrize("power", [-1.0, float("nan"), float("inf")])
def test_no_other_powers(power: float) -> None:
    with pytest.raises(SettingsError, match="scarcity"):
        Knapsack(scarcity=power)
