"""The multiple-choice knapsack against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

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


A = (np.array([1.0, 2.0, 3.0]), np.array([5.0, 8.0, 10.0]))
B = (np.array([0.0, 2.0, 4.0]), np.array([0.0, 7.0, 9.0]))


def test_by_hand() -> None:
    costs, values = (A[0], B[0]), (A[1], B[1])
    with pytest.raises(InfeasibleBudget, match="cheapest of each class cost 1"):
        solve_choices(costs, values, 0.0)
    assert [worth(values, solve_choices(costs, values, float(room))) for room in range(1, 8)] == [
        5, 8, 12, 15, 17, 17, 19,
    ]  # fmt: skip


# what is above the room by less than the solver's tolerance may count as within it
figures = st.floats(0, 10).map(lambda figure: round(figure, 3))
classes_of_floats = st.lists(st.lists(st.tuples(figures, figures), min_size=1, max_size=6), min_size=1, max_size=4)


def worth(values: Sequence[np.ndarray], picks: Sequence[int]) -> float:
    return float(sum(value[pick] for value, pick in zip(values, picks, strict=True)))


def split(classes: list[list[tuple[float, float]]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return ([np.array([cost for cost, _ in rows]) for rows in classes],
            [np.array([value for _, value in rows]) for rows in classes])  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(classes_of_floats, st.floats(0, 10), st.floats(0, 10))
def test_more_room_is_never_worth_less(classes: list[list[tuple[float, float]]], extra: float, further: float) -> None:
    costs, values = split(classes)
    room = sum(cost.min() for cost in costs) + extra
    less, more = (worth(values, solve_choices(costs, values, size)) for size in (room, room + further))
    assert more >= less - 1e-9


@settings(max_examples=200, deadline=None)
@given(classes_of_floats, st.floats(0, 10), st.sampled_from([1e-6, 0.3, 1e9]))
def test_dominated_choices_and_scales_change_nothing(
    classes: list[list[tuple[float, float]]], extra: float, scale: float
) -> None:
    costs, values = split(classes)
    room = sum(cost.min() for cost in costs) + extra
    right = worth(values, solve_choices(costs, values, room))
    dearer = [np.append(cost, cost + 0.5) for cost in costs]
    poorer = [np.append(value, value - 0.25) for value in values]
    assert worth(poorer, solve_choices(dearer, poorer, room)) == pytest.approx(right)
    scaled = solve_choices([cost * scale for cost in costs], [value * 7 for value in values], room * scale)
    assert worth(values, scaled) == pytest.approx(right)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 5), st.integers(2, 3))
def test_several_terms_equal_brute_force(seed: int, count: int, terms: int) -> None:
    rng = np.random.default_rng(seed)
    # rising together, as the costs of a width do; the first choice of a class may be to drop it
    costs = [np.cumsum(rng.integers(0, 9, (terms, rng.integers(1, 6))), axis=1).astype(float) for _ in range(count)]
    values = [np.cumsum(rng.uniform(0, 5, cost.shape[1])) for cost in costs]
    least, most = (sum(cost[:, index] for cost in costs) for index in (0, -1))
    room = np.floor(least + rng.uniform(0, 1, terms) * (most - least))
    every = itertools.product(*(range(len(value)) for value in values))
    right = max(
        worth(values, picks)
        for picks in every
        if (sum(cost[:, pick] for cost, pick in zip(costs, picks, strict=True)) <= room).all()
    )
    picks = solve_choices(costs, values, room)
    assert (sum(cost[:, pick] for cost, pick in zip(costs, picks, strict=True)) <= room).all()
    assert worth(values, picks) == pytest.approx(right)


def test_several_terms_out_of_reach_say_what_the_cheapest_cost() -> None:
    costs = [np.array([[1.0, 2.0], [3.0, 4.0]])]
    with pytest.raises(InfeasibleBudget, match="within 1 and 2; the cheapest of each class cost 1 and 3"):
        solve_choices(costs, [np.array([1.0, 2.0])], np.array([1.0, 2.0]))


def test_a_class_is_dropped_where_that_is_worth_most() -> None:
    # keeping the second class at all costs as much as two more of the first
    costs = [np.arange(5.0), np.array([0.0, 2.0, 2.5])]
    values = [np.array([0.0, 3.0, 5.0, 6.0, 6.5]), np.array([0.0, 1.0, 1.2])]
    assert solve_choices(costs, values, 3.0) == [3, 0]


def test_few_states_stay_within_the_capacity_and_near_the_best() -> None:
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
