import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.budget import Limits
from edakari.core.space import Group
from edakari.errors import InfeasibleBudget
from edakari.solve.binarization import otsu
from edakari.solve.greedy import GreedyDescent, kept_count, next_target
from edakari.testing import ProductCost


@pytest.mark.parametrize(
    ("size", "rate", "count"),
    [(16, 0.8, 13), (16, 0.6, 10), (32, 0.8, 26), (64, 0.8, 52), (64, 0.98, 63), (16, 0.9375, 15), (16, 0.0, 1)],
)
def test_kept_counts(size, rate, count):
    assert kept_count(size, rate) == count


def test_targets_lie_on_the_grid_of_equal_shares():
    widths, now = [], 64
    while now > 1:
        now = next_target(64, 0.2, now)
        widths.append(now)
    assert widths == [52, 39, 26, 13, 1]
    assert next_target(64, 0.02, 64) == 63
    assert next_target(10, 0.1, 8) == 7


@pytest.mark.parametrize(
    ("keys", "threshold"),
    [
        ([0, 1, 2, 3, 4, 10, 11, 12, 13, 14], 7.0),
        ([1] * 5 + [9] * 5, 5.0),
        ([3.0] * 8, 3.0),
        ([0, 1, 2, 10, 11], 6.0),
        ([5, 1, 2], np.inf),
        ([1, 2], np.inf),
        ([], np.inf),
    ],
)
def test_otsu(keys, threshold):
    assert otsu(keys) == threshold


@given(st.lists(st.floats(-1e6, 1e6), max_size=40))
def test_otsu_always_lets_the_least_pass(keys):
    if keys:
        assert min(keys) <= otsu(keys)


def instance(sizes=(16, 12, 8)):
    names = "abc"
    groups = [Group(name, "channel", size) for name, size in zip(names, sizes, strict=True)]
    whole = {group.name: group.size for group in groups}
    return groups, ProductCost(whole, ((1.0, ("a", "b")), (2.0, ("b", "c"))))


def first(sizes, candidates):
    return 0, -float(sum(sizes.values()))


@given(st.floats(0.05, 0.99), st.integers(0, 5))
def test_a_descent_ends_at_the_budget_and_not_below(share, seed):
    groups, cost = instance()
    limits = Limits(((cost, share * cost.total({})),))
    rng = np.random.default_rng(seed)
    path = list(
        GreedyDescent({"a": 0.2, "b": 0.1, "c": 0.3}).search(
            groups, limits, lambda sizes, candidates: (int(rng.integers(len(candidates))), 0.0)
        )
    )
    costs = [cost.total({}), *(cost.total(sizes) for sizes, _ in path)]
    assert all(after < before for before, after in itertools.pairwise(costs))
    sizes, last = path[-1]
    assert limits.excess(sizes) <= 0
    assert limits.excess({**sizes, last.group: sizes[last.group] + 1}) > 0


def test_known_steps_are_taken_over_as_long_as_candidates_are_the_same():
    groups, cost = instance()
    descent = GreedyDescent({group.name: 0.2 for group in groups})
    looks = []

    def look(sizes, candidates):
        looks.append(dict(sizes))
        return len(looks) % len(candidates), 1.0

    loose, tight = (Limits(((cost, share * cost.total({})),)) for share in (0.6, 0.4))
    path = [step for _, step in descent.search(groups, loose, look)]
    count = len(looks)
    assert [step for _, step in descent.search(groups, loose, look, path)] == path
    assert len(looks) == count
    further = [step for _, step in descent.search(groups, tight, look, path)]
    same = sum(not any(candidate.last for candidate in step.candidates) for step in path)
    assert further[:same] == path[:same]
    assert len(looks) == count + len(further) - same


def test_legal_sizes_are_kept_to():
    groups = [Group("a", "channel", 16, step=8, least=8), Group("b", "channel", 12, step=4), Group("c", "channel", 8)]
    _, cost = instance()
    limits = Limits(((cost, 0.5 * cost.total({})),))
    path = list(GreedyDescent({"a": 0.2, "b": 0.2, "c": 0.2}).search(groups, limits, first))
    assert all(sizes["a"] in (8, 16) and sizes["b"] in (4, 8, 12) for sizes, _ in path)


class Plateau:
    """A cost that falls every four widths only."""

    name, unit = "latency", "ms"

    def total(self, sizes):
        return float(-(-sizes.get("a", 16) // 4))

    def curve(self, group, sizes):
        return np.array([self.total({**sizes, group.name: size}) for size in range(group.size + 1)])


def test_a_step_goes_on_to_the_next_width_that_is_cheaper():
    groups = [Group("a", "channel", 16), Group("b", "channel", 8)]
    path = list(GreedyDescent({"a": 1 / 16, "b": 0.5}).search(groups, Limits(((Plateau(), 2.0),)), first))
    assert [step.size for _, step in path] == [12, 8]
    assert {step.group for _, step in path} == {"a"}


def test_a_budget_out_of_reach():
    groups, cost = instance()
    with pytest.raises(InfeasibleBudget, match="cannot be reached"):
        list(GreedyDescent({group.name: 0.5 for group in groups}).search(groups, Limits(((cost, 0.5),)), first))


def test_kept_counts_of_equal_fractions_are_those_of_exact_arithmetic():
    for size, parts in itertools.product((16, 20, 48, 64, 100), range(2, 40)):
        for gone in range(parts + 1):
            exact = max(1, math.ceil(size * (1 - Fraction(gone, parts))))
            assert kept_count(size, 1.0 - gone * (1.0 / parts)) == exact, (size, parts, gone)
