"""The allocator Knapsack against brute force, with several terms, dropped branches and costs of any form."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edakari.core.budget import Limits
from edakari.core.layout import Axis
from edakari.core.protocols import Values
from edakari.core.space import Group, Sizes, dense_sizes, legal_sizes
from edakari.cost import Count
from edakari.errors import InfeasibleBudget
from edakari.solve import Knapsack
from edakari.solve.descent import descend
from edakari.solve.spend import worth_of
from edakari.testing import ProductCost


def falling(rng: np.random.Generator, group: Group) -> np.ndarray:
    scores = np.sort(rng.lognormal(0, 0.7, group.size))[::-1]
    return np.concatenate([[0.0], np.cumsum(scores)])


def chain(seed: int, terms: int) -> tuple[list[Group], Values, Limits]:
    """A chain of layers of random widths and areas; every layer's cost depends on two groups."""
    rng = np.random.default_rng(seed)
    groups = [Group(name, "channel", int(rng.integers(3, 8))) for name in "abcde"[: int(rng.integers(2, 6))]]
    values = {group.name: falling(rng, group) for group in groups}
    pairs = [(left.name, right.name) for left, right in itertools.pairwise(groups)]
    whole = dense_sizes(groups)
    macs = ProductCost(whole, tuple((float(rng.integers(1, 9)), pair) for pair in pairs))
    params = ProductCost(whole, tuple((1.0, pair) for pair in pairs), "params", "parameter")
    return groups, values, Limits(tuple((cost, 0.5 * cost.total({})) for cost in (macs, params)[:terms]))


def optimum(groups: Sequence[Group], values: Values, limits: Limits) -> float:
    names = [group.name for group in groups]
    grid = (dict(zip(names, sizes, strict=True)) for sizes in itertools.product(*map(legal_sizes, groups)))
    return max(worth_of(values, sizes) for sizes in grid if limits.excess(sizes) <= 0)


@pytest.mark.parametrize("terms", [1, 2])
def test_coupled_costs_end_near_the_best_sizes(terms: int) -> None:
    gaps = []
    for seed in range(30):
        groups, values, limits = chain(seed, terms)
        sizes = Knapsack().allocate(groups, values, limits)
        assert limits.excess(sizes) <= 0
        gaps.append(1 - worth_of(values, sizes) / optimum(groups, values, limits))
    assert min(gaps) > -1e-9
    # Widths of 3 to 7 are as coarse as it gets; on real networks the gaps are far smaller, see benchmarks/solvers.py.
    assert np.mean(gaps) < 0.005
    assert max(gaps) < 0.04
    assert np.mean(np.array(gaps) < 1e-9) > 0.7


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 2))
def test_uncoupled_costs_end_in_the_best_sizes(seed: int, terms: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [Group(name, "channel", int(rng.integers(2, 9)), int(rng.choice([1, 3]))) for name in "abcd"]
    values = {group.name: falling(rng, group) for group in groups}
    costs = [
        ProductCost(dense_sizes(groups), tuple((float(rng.integers(1, 9)), (name,)) for name in "abcd"), name)
        for name in ("macs", "params")
    ]
    smallest = {group.name: legal_sizes(group)[0] for group in groups}
    limits = Limits(tuple((cost, (cost.total({}) + cost.total(smallest)) / 2) for cost in costs[:terms]))
    sizes = Knapsack().allocate(groups, values, limits)
    assert worth_of(values, sizes) == pytest.approx(optimum(groups, values, limits))


def test_a_sweep_of_descents_is_within_the_limits_and_beats_the_smallest_sizes() -> None:
    groups, values, limits = chain(7, 2)
    sizes = descend(groups, values, limits, 12)
    assert limits.excess(sizes) <= 0
    assert worth_of(values, sizes) > worth_of(values, {group.name: 1 for group in groups})


@dc.dataclass(frozen=True)
class Stairs:
    """A latency that rises in steps of four widths, and is looked up instead of computed."""

    whole: Mapping[str, int]
    name: str = "latency"
    unit: str = "ms"

    def total(self, sizes: Sizes) -> float:
        wide = [-(-sizes.get(name, size) // 4) for name, size in self.whole.items()]
        return 1.0 + sum(np.sqrt(a * b) for a, b in itertools.pairwise(wide))

    def curve(self, group: Group, sizes: Sizes) -> np.ndarray:
        return np.array([self.total({**sizes, group.name: size}) for size in range(group.size + 1)])


def test_a_cost_may_be_any_function_of_the_sizes() -> None:
    rng = np.random.default_rng(3)
    groups = [Group(name, "channel", 12) for name in "abc"]
    values = {group.name: falling(rng, group) for group in groups}
    cost = Stairs(dense_sizes(groups))
    limits = Limits(((cost, 0.7 * cost.total({})),))
    sizes = Knapsack().allocate(groups, values, limits)
    assert limits.excess(sizes) <= 0
    assert worth_of(values, sizes) == pytest.approx(optimum(groups, values, limits))
    assert all(size % 4 == 0 for size in sizes.values()), "wider costs nothing up to the next step"


def branchy() -> tuple[list[Group], Values, Count]:
    """Two residual branches around a stream of 16; each can be dropped, and has a width of its own."""
    stream = Axis("stream", 16)
    groups, terms, values = [Group("stream", "channel", 16, 4)], [(400, (stream,))], {"stream": 20 * np.arange(17.0)}
    for name, worth in (("one", 1.0), ("two", 200.0)):
        gate, inner = Axis(f"{name}:branch", 1), Axis(name, 8)
        terms += [(9, (gate, stream, inner)), (9, (gate, inner, stream))]
        groups += [Group(name, "hidden", 8, 2), Group(gate.group, "branch", 1, least=0)]
        values[name], values[gate.group] = 0.1 * np.arange(9.0), np.array([0.0, worth])
    return groups, values, Count("macs", "MAC", tuple(terms))


def test_a_branch_is_dropped_where_its_cost_is_worth_more_elsewhere() -> None:
    groups, values, cost = branchy()
    names = [group.name for group in groups]
    choices = {group.name: (0, 1) if group.kind == "branch" else legal_sizes(group) for group in groups}
    for share in (0.75, 0.6, 0.5):
        limits = Limits(((cost, share * cost.total({})),))
        sizes = Knapsack().allocate(groups, values, limits)
        assert limits.excess(sizes) <= 0
        grid = (dict(zip(names, picks, strict=True)) for picks in itertools.product(*choices.values()))
        best = max((each for each in grid if limits.excess(each) <= 0), key=lambda each: worth_of(values, each))
        assert worth_of(values, sizes) == pytest.approx(worth_of(values, best), rel=1e-3)
        assert sizes["two:branch"] == 1
    assert sizes["one:branch"] == 0


def test_what_can_be_reached_is_told_with_branches_dropped() -> None:
    groups, values, cost = branchy()
    with pytest.raises(InfeasibleBudget) as caught:
        Knapsack().allocate(groups, values, Limits(((cost, 100.0),)))
    assert caught.value.least == {"macs": 1600.0}
