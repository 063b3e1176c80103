"""Landing: within the limits, and not far below them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.budget import Limits
from edakari.core.space import Group, Sizes, legal_sizes
from edakari.errors import InfeasibleBudget
from edakari.solve.last_step import shortened


class Sum:
    """Each channel costs one."""

    name, unit = "sum", "unit"

    def total(self, sizes: Sizes) -> float:
        return float(sum(sizes.get(f"g{index}", 40) for index in range(3)))

    def curve(self, group: Group, sizes: Sizes) -> np.ndarray:
        return np.array([self.total({**sizes, group.name: k}) for k in range(group.size + 1)])


GROUPS = tuple(Group(f"g{index}", "channel", 40) for index in range(3))
WHOLE = {group.name: 40 for group in GROUPS}
SCORES = {group.name: torch.linspace(1, 2 + index, 40).double() for index, group in enumerate(GROUPS)}


@given(st.lists(st.integers(1, 40), min_size=3, max_size=3), st.integers(3, 120), st.sampled_from([1, 4, 8]))
def test_it_is_legal_within_the_limit_and_uses_it(proposed: list[int], limit: int, step: int) -> None:
    groups = tuple(Group(group.name, group.kind, group.size, step=step) for group in GROUPS)
    legal = {group.name: legal_sizes(group) for group in groups}
    wanted = {
        name: max(s for s in (sizes[0], *sizes) if s <= max(p, sizes[0]))
        for (name, sizes), p in zip(legal.items(), proposed, strict=True)
    }
    limits = Limits(((Sum(), float(limit)),))
    if limit < 3 * step:
        with pytest.raises(InfeasibleBudget):
            shortened(groups, WHOLE, wanted, SCORES, limits)
        return
    found = shortened(groups, WHOLE, wanted, SCORES, limits)
    assert all(found[name] in sizes for name, sizes in legal.items())
    assert sum(found.values()) <= limit
    # nothing that was wide enough before could be given back
    assert sum(found.values()) > limit - step or found == WHOLE


def test_what_is_given_back_is_what_scores_best() -> None:
    limits = Limits(((Sum(), 61.0),))
    found = shortened(GROUPS, WHOLE, dict.fromkeys(WHOLE, 20), SCORES, limits)
    assert found == {"g0": 20, "g1": 20, "g2": 21}
