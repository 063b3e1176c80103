"""What allocators promise, and how near to the best sizes they come."""

from __future__ import annotations

import dataclasses as dc
import itertools
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.budget import Limits
from edakari.core.plan import KeepChannels
from edakari.core.space import Group, dense_sizes, legal_sizes
from edakari.errors import EdakariError, InfeasibleBudget
from edakari.solve import Knapsack, Threshold, Uniform, keep_best, values_of
from edakari.solve.threshold import _nearest
from edakari.testing import ProductCost, check_allocator

ALLOCATORS = [Uniform(), Threshold(), Knapsack()]


def worth(values: dict[str, np.ndarray], sizes: Any) -> float:
    return float(sum(values[name][size] for name, size in sizes.items()))


def small(seed: int, coupled: bool) -> tuple[list[Group], dict[str, np.ndarray], ProductCost]:
    rng = np.random.default_rng(seed)
    groups = [Group(name, "channel", int(rng.integers(4, 10))) for name in "abcd"]
    values = {}
    for group in groups:
        scores = np.sort(rng.lognormal(0, 0.7, group.size))[::-1]
        values[group.name] = np.concatenate([[0.0], np.cumsum(scores)])
    names = [(a, b) for a, b in itertools.pairwise("abcd")] if coupled else [(name,) for name in "abcd"]
    return groups, values, ProductCost(dense_sizes(groups), tuple((float(rng.integers(1, 9)), name) for name in names))


def optimum(groups: list[Group], values: dict[str, np.ndarray], limits: Limits) -> float:
    names = [group.name for group in groups]
    grid = (dict(zip(names, sizes, strict=True)) for sizes in itertools.product(*map(legal_sizes, groups)))
    return max(worth(values, sizes) for sizes in grid if limits.excess(sizes) <= 0)


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_conformance(allocator: Any) -> None:
    check_allocator(allocator)


@pytest.mark.parametrize("seed", range(6))
def test_knapsack_is_exact_where_costs_are_not_coupled(seed: int) -> None:
    groups, values, cost = small(seed, coupled=False)
    limits = Limits(((cost, 0.5 * cost.total({})),))
    assert worth(values, Knapsack().allocate(groups, values, limits)) == pytest.approx(optimum(groups, values, limits))


def test_knapsack_is_near_the_best_where_costs_are_coupled() -> None:
    shares = []
    for seed in range(8):
        groups, values, cost = small(seed, coupled=True)
        limits = Limits(((cost, 0.5 * cost.total({})),))
        found = worth(values, Knapsack().allocate(groups, values, limits))
        assert found >= worth(values, Threshold().allocate(groups, values, limits))
        shares.append(found / optimum(groups, values, limits))
    assert np.mean(shares) > 0.98
    assert min(shares) > 0.94


def test_uniform_keeps_the_same_share_everywhere() -> None:
    groups = [Group(f"g{i}", "channel", size) for i, size in enumerate((64, 128, 256, 256, 512))]
    cost = ProductCost(dense_sizes(groups), tuple((1.0, (f"g{i}", f"g{i + 1}")) for i in range(4)))
    values = {group.name: np.arange(group.size + 1.0) for group in groups}
    sizes = Uniform().allocate(groups, values, Limits(((cost, 0.25 * cost.total({})),)))
    assert [sizes[group.name] / group.size for group in groups] == pytest.approx([0.5] * 5, abs=0.02)


def test_uniform_drops_branches_last() -> None:
    groups = [Group("inner", "channel", 8), Group("branch", "branch", 1, least=0)]
    cost = ProductCost(dense_sizes(groups), ((1.0, ("inner", "branch")), (0.5, ("inner",))))
    values = {"inner": np.arange(9.0), "branch": np.array([0.0, 1.0])}
    assert Uniform().allocate(groups, values, Limits(((cost, 4.0),)))["branch"] == 1
    assert Uniform().allocate(groups, values, Limits(((cost, 1.0),)))["branch"] == 0


def test_threshold_keeps_what_is_above_one_threshold() -> None:
    rng = np.random.default_rng(0)
    groups = [Group(f"g{i}", "channel", 200) for i in range(5)]
    scores = {g.name: torch.from_numpy(rng.lognormal(i / 4, 0.5, g.size)) for i, g in enumerate(groups)}
    cost = ProductCost(dense_sizes(groups), tuple((1.0, (g.name,)) for g in groups))
    sizes = Threshold().allocate(groups, values_of(scores), Limits(((cost, 300.0),)))
    kept = np.concatenate([np.sort(scores[g.name].numpy())[::-1][: sizes[g.name]] for g in groups])
    every = np.sort(torch.cat(list(scores.values())).numpy())[::-1]
    np.testing.assert_allclose(np.sort(kept)[::-1], every[:300])


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_equal_values_are_broken_the_same_way(allocator: Any) -> None:
    groups = [Group(f"g{i}", "channel", 10, step=3, least=2) for i in range(4)]
    cost = ProductCost(dense_sizes(groups), tuple((1.0, (g.name,)) for g in groups))
    values = {g.name: np.zeros(11) for g in groups}
    sizes = allocator.allocate(groups, values, Limits(((cost, 25.0),)))
    assert sizes == allocator.allocate(groups, values, Limits(((cost, 25.0),)))
    assert 24 <= cost.total(sizes) <= 25


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_missing_values_are_named(allocator: Any) -> None:
    group = Group("layer1.conv", "channel", 4)
    limits = Limits(((ProductCost({"layer1.conv": 4}, ((1.0, ("layer1.conv",)),)), 2.0),))
    with pytest.raises(EdakariError, match=r"'layer1.conv'.*got none"):
        allocator.allocate([group], {}, limits)
    with pytest.raises(EdakariError, match=r"'layer1.conv'.*shape \(3,\)"):
        allocator.allocate([group], {"layer1.conv": np.zeros(3)}, limits)


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_the_smallest_cost_is_named_for_every_term(allocator: Any) -> None:
    groups = [Group("a", "channel", 8, step=4), Group("b", "channel", 6, least=3)]
    macs = ProductCost(dense_sizes(groups), ((2.0, ("a", "b")),))
    params = ProductCost(dense_sizes(groups), ((1.0, ("a",)),), "params", "parameter")
    with pytest.raises(InfeasibleBudget, match="macs 24 of 12 MAC") as caught:
        allocator.allocate(
            groups, values_of({"a": torch.ones(8), "b": torch.ones(6)}), Limits(((macs, 12.0), (params, 8.0)))
        )
    assert caught.value.least == {"macs": 24.0, "params": 4.0}


@pytest.mark.parametrize(("allocator", "seconds"), [(Uniform(), 0.3), (Threshold(), 0.3), (Knapsack(), 1.0)], ids=repr)
def test_a_network_of_the_size_of_resnet_50_is_quick(allocator: Any, seconds: float) -> None:
    rng = np.random.default_rng(0)
    groups = [Group(f"g{i}", "channel", int(size)) for i, size in enumerate(np.geomspace(64, 2048, 50))]
    cost = ProductCost(dense_sizes(groups), tuple((1.0, (a.name, b.name)) for a, b in itertools.pairwise(groups)))
    values = values_of({g.name: torch.from_numpy(rng.lognormal(0, 0.4, g.size)) for g in groups})
    start = time.process_time()
    sizes = allocator.allocate(groups, values, Limits(((cost, 0.5 * cost.total({})),)))
    spent = time.process_time() - start
    assert -0.002 < cost.total(sizes) / (0.5 * cost.total({})) - 1 <= 0
    assert spent < 2 * seconds


def test_values_are_sums_of_the_best_scores() -> None:
    values = values_of({"a": torch.tensor([1.0, 3.0, 2.0]), "b": torch.tensor([-1.0, 2.0])})
    assert values["a"].tolist() == [0.0, 3.0, 5.0, 6.0]
    assert values["b"].tolist() == [0.0, 3.0, 3.0]
    with pytest.raises(EdakariError, match=r"'a'.*not finite"):
        values_of({"a": torch.tensor([1.0, float("nan")])})


def test_keep_best_keeps_the_best_and_the_first_of_equals() -> None:
    scores = {"a": torch.tensor([1.0, 3.0, 3.0, 1.0]), "b": torch.tensor([1.0, 2.0])}
    assert keep_best(scores, {"a": 3, "b": 2}) == (KeepChannels("a", (0, 1, 2)),)
    with pytest.raises(EdakariError, match=r"'c'.*no scores"):
        keep_best(scores, {"c": 1})


def test_settings_are_frozen() -> None:
    with pytest.raises(dc.FrozenInstanceError):
        Knapsack().rounds = 3  # type: ignore[misc]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 12))
def test_counts_are_rounded_to_the_nearest_legal_size_and_down_where_two_are_as_near(size, step, least):
    group = Group("a", "channel", size, step, least)
    nearest = [min(legal_sizes(group), key=lambda legal: (abs(legal - count), legal)) for count in range(size + 1)]
    assert _nearest(group).tolist() == nearest
