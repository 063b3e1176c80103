"""Legal sizes of groups: at their edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.space import Group, Kind, legal_choices, legal_sizes, limited


@pytest.mark.parametrize("kind", ["channel", "head", "head_dim", "embedding", "hidden", "group", "token"])
def test_only_a_branch_may_go_whole(kind: Kind) -> None:
    assert legal_sizes(Group("a", kind, 4, least=0)) == (1, 2, 3, 4)
    assert legal_sizes(Group("a", "branch", 1, least=0)) == (0, 1)
    (never,) = limited([Group("a", kind, 4)], min_channels=0)
    assert 0 not in legal_sizes(never)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 50))
def test_legal_sizes_are_the_multiples_from_the_least_on_and_the_unpruned_size(
    size: int, step: int, least: int
) -> None:
    group = Group("a", "channel", size, step, least)
    expected = [n for n in range(1, size) if n % step == 0 and n >= least]
    assert list(legal_sizes(group)) == [*expected, size]
    assert legal_choices(group).tolist() == [*expected, size]
