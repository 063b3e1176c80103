"""The multiple-choice knapsack against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edakari.errors import EdakariError, InfeasibleBudget
from edakari.solve import solve_choices

pairs = st.lists(st.tuples(st.integers(0, 12), st.integers(-5, 20)), min_size=1, max_size=5)


def best(costs: list[np.ndarray], values: list[np.ndarray], capacity: float) -> float | None:
    worths = [
        sum(v[i] for v, i in zip(values, picks, strict=True))
        for picks in itertools.product(*(range(len(cost)) for cost in costs))
        if sum(c[i] for c, i in zip(costs, picks, strict=True)) <= capacity
    ]
    return max(worths, default=None)


@settings(max_examples=400, deadline=None)
@given(st.lists(pairs, min_size=1, max_size=5), st.integers(0, 50))
def test_equals_brute_force(classes: list[list[tuple[int, int]]], capacity: int) -> None:
    costs = [np.array([cost for cost, _ in pairs], dtype=float) for pairs in classes]
    values = [np.array([value for _, value in pairs], dtype=float) for pairs in classes]
    right = best(costs, values, capacity)
    if right is None:
        with pytest.raises(InfeasibleBudget):
            solve_choices(costs, values, capacity)
        return
    picks = solve_choices(costs, values, capacity)
    assert sum(c[i] for c, i in zip(costs, picks, strict=True)) <= capacity
    assert sum(v[i] for v, i in zip(values, picks, strict=True)) == right


@pytest.mark.parametrize("seed", range(20))
def test_equals_brute_force_on_real_costs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = [rng.normal(0, 3, 6) for _ in range(5)]
    values = [rng.normal(size=6) for _ in range(5)]
    capacity = sum(cost.min() for cost in costs) + rng.uniform(0, 12)
    picks = solve_choices(costs, values, capacity)
    assert sum(c[i] for c, i in zip(costs, picks, strict=True)) <= capacity * (1 + 1e-9) + 1e-9
    assert sum(v[i] for v, i in zip(values, picks, strict=True)) == pytest.approx(best(costs, values, capacity))


def test_a_coarse_grid_stays_within_the_capacity_and_near_the_best() -> None:
    rng = np.random.default_rng(0)
    costs = [rng.uniform(0, 1, 40) for _ in range(12)]
    values = [cost + rng.normal(0, 0.01, 40) for cost in costs]
    fine, coarse = (solve_choices(costs, values, 5.0, resolution) for resolution in (100_000, 200))
    worth = [sum(v[i] for v, i in zip(values, picks, strict=True)) for picks in (fine, coarse)]
    assert sum(c[i] for c, i in zip(costs, coarse, strict=True)) <= 5.0
    assert worth[1] >= worth[0] - 12 * 5.0 / 200


def test_no_class_is_no_choice() -> None:
    assert solve_choices([], [], 1.0) == []


@pytest.mark.parametrize(
    ("costs", "values"), [([[1.0]], []), ([[1.0]], [[1.0, 2.0]]), ([[]], [[]]), ([[np.nan]], [[1.0]])]
)
def test_bad_input_is_refused(costs: list[list[float]], values: list[list[float]]) -> None:
    with pytest.raises(EdakariError):
        solve_choices([np.array(c) for c in costs], [np.array(v) for v in values], 5.0)
