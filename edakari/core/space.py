"""What can be sized, and how much of it: groups, sizes, scores."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.arguments import require

__all__ = ["WIDTHS", "Group", "Kind", "Scores", "Sizes", "dense_sizes", "legal_choices", "legal_sizes", "limited"]

Kind = Literal["channel", "head", "head_dim", "embedding", "hidden", "group", "token", "branch"]

Sizes = Mapping[str, int]
"""Size of each group by name; a group that is not named is whole."""

Scores = Mapping[str, torch.Tensor]
"""Score of each channel of a group: float64 [size] on the CPU, finite, larger means keep."""

WIDTHS: frozenset[Kind] = frozenset({"channel", "head_dim", "embedding", "hidden"})
"""The kinds whose sizes hardware likes to be multiples of 8 or 16."""


@dc.dataclass(frozen=True, slots=True)
class Group:
    """A set of positions over the whole network that can only be removed together, channel by channel.

    Args:
        name: from the module path of its first producer, stable when a cut network is traced again.
        kind: what the channels are.
        size: number of channels in the network as traced.
        step: sizes are multiples of this (the whole size is always legal).
        least: smallest legal size.
    """

    name: str
    kind: Kind
    size: int
    step: int = 1
    least: int = 1


def legal_sizes(group: Group) -> tuple[int, ...]:
    """The sizes that a group may take, rising: multiples of `step` that are at least `least`, and the whole.

    Only a branch may go whole.
    """
    return (*_partial_sizes(group), group.size)


def legal_choices(group: Group) -> npt.NDArray[np.int64]:
    """`legal_sizes` as an array, int64 [choices], without the detour over thousands of Python integers."""
    sizes = _partial_sizes(group)
    return np.append(np.arange(sizes.start, sizes.stop, sizes.step), group.size)


def _partial_sizes(group: Group) -> range:
    lowest = group.least if group.kind == "branch" else max(group.least, 1)
    first = -(-lowest // group.step) * group.step
    return range(first, group.size, group.step)


def limited(groups: Iterable[Group], *, round_to: int = 1, min_channels: int | float = 1) -> tuple[Group, ...]:
    """The same groups with other legal sizes.

    Args:
        groups: groups to limit.
        round_to: sizes of channels, widths and head dimensions become multiples of this; heads and groups keep step 1,
            and branches stay as they are.
        min_channels: smallest size; a float below 1 is a fraction of the group's size. A group whose own
            least size is larger keeps that.
    """
    call = "limited(groups)"
    require(call, groups=(groups, Iterable))
    groups = tuple(groups)
    for group in groups:
        require(call, groups=(group, Group))

    def limit(group: Group) -> Group:
        if group.kind == "branch":
            return group
        floor = min_channels if isinstance(min_channels, int) else -int(-group.size * min_channels // 1)
        return dc.replace(
            group, step=round_to if group.kind in WIDTHS else 1, least=max(1, group.least, min(group.size, floor))
        )

    return tuple(limit(group) for group in groups)


def dense_sizes(groups: Iterable[Group]) -> dict[str, int]:
    """Every group at its whole size."""
    return {group.name: group.size for group in groups}
