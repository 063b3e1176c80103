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
from edakari.solve.relax import Items, relax

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


def of_floats(seed: int) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Up to 5 classes of up to 6 choices, and a capacity that a few of them cannot meet."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, rng.integers(1, 6))
    costs = [rng.uniform(0, 5, size) for size in sizes]
    values = [rng.uniform(0, 5, size) for size in sizes]
    return costs, values, sum(cost.min() for cost in costs) + rng.uniform(-0.5, 10)


def dynamic(costs: list[np.ndarray], values: list[np.ndarray], capacity: int) -> float:
    """Best value by a dynamic programme over whole costs; minus infinity if nothing fits."""
    table = np.zeros(capacity + 1)
    for cost, value in zip(costs, values, strict=True):
        rows = [np.concatenate([np.full(min(c, capacity + 1), -np.inf), table[: max(capacity + 1 - c, 0)]]) + v
                for c, v in zip(cost.tolist(), value, strict=True)]  # fmt: skip
        table = np.max(rows, axis=0)
    return float(table[-1])


def test_equals_brute_force_on_300_instances_of_floats() -> None:
    infeasible = 0
    for seed in range(300):
        costs, values, capacity = of_floats(seed)
        right = best(costs, values, capacity)
        if right is None:
            infeasible += 1
            with pytest.raises(InfeasibleBudget):
                solve_choices(costs, values, capacity)
            continue
        picks = solve_choices(costs, values, capacity)
        found = worth(values, picks)
        assert worth(costs, picks) <= capacity + 1e-9
        assert found == pytest.approx(right, abs=1e-9, rel=0)
        # 1 unit is a fortieth; costs that are rounded up are within the capacity, and rounded down a bound
        up, down = ([rounded(40 * cost).astype(int) for cost in costs] for rounded in (np.ceil, np.floor))
        room = int(np.floor(40 * capacity))
        assert dynamic(up, values, room) <= found + 1e-9
        assert found <= dynamic(down, values, room) + 1e-9
    assert 0 < infeasible < 60


A = (np.array([1.0, 2.0, 3.0]), np.array([5.0, 8.0, 10.0]))
B = (np.array([0.0, 2.0, 4.0]), np.array([0.0, 7.0, 9.0]))


def test_by_hand() -> None:
    costs, values = (A[0], B[0]), (A[1], B[1])
    with pytest.raises(InfeasibleBudget, match="cheapest of each class cost 1"):
        solve_choices(costs, values, 0.0)
    assert [worth(values, solve_choices(costs, values, float(room))) for room in range(1, 8)] == [
        5, 8, 12, 15, 17, 17, 19,
    ]  # fmt: skip


def test_the_relaxation_bounds_by_hand() -> None:
    # costs above the cheapest of each class, which leaves 1 of 2
    items = Items(
        np.concatenate([A[0] - 1, B[0]])[None],
        np.concatenate([A[1], B[1]]),
        np.repeat([0, 1], 3),
        np.tile(np.arange(3), 2),
    )
    assert relax(items, np.array([1.0])).bound == pytest.approx(8.5, abs=1e-9)


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
