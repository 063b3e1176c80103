"""Sizes of trial cuts, chosen so that no two widths are equal in all of them by accident."""

from __future__ import annotations

import dataclasses as dc
import math
import zlib
from collections.abc import Collection, Sequence

from edakari.core.space import WIDTHS, Group, Sizes

__all__ = ["TrialSizes", "trial_sizes"]

MOST = 4
"""Largest number of trial cuts, for networks in which many groups have few sizes."""


@dc.dataclass(frozen=True)
class TrialSizes:
    """Sizes of the trial cuts of a network.

    Args:
        turns: for each trial cut, the size of each group that it cuts.
        alternate: cuts of every second group, and of the others.
        crowded: the first turn alone does not tell all groups apart.
    """

    turns: tuple[Sizes, ...]
    alternate: tuple[Sizes, ...]
    crowded: bool


def trial_sizes(groups: Sequence[Group], fixed: Collection[int] = ()) -> TrialSizes:
    """Trial cuts: to middling sizes that differ between groups, then to the smallest sizes.

    Code that compares two widths which only happen to agree in the dense network fails in one of them: two groups
    that get one size in the first turn get different ones in another. More than two turns are needed only where a
    network has many groups of a few positions. What counts heads or groups is seldom compared with anything else, so
    no further turn is made for that.

    Args:
        groups: with their least sizes.
        fixed: lengths that no cut changes; middling sizes keep away from them where there are others. They are prime
            where they can be: then none divides another, as code that reshapes by a wrong one needs it to.
    """
    cut = [group for group in groups if max(group.least, 1) < group.size]
    wide = [group.name for group in cut if group.kind in WIDTHS]
    turns = [_sizes(cut, (), fixed)]
    crowded = _agree(wide, turns)
    turns.append(_sizes(cut, turns, fixed))
    while _agree(wide, turns) and len(turns) < MOST:
        turns.append(_sizes(cut, turns, fixed))
    alternate = [{group.name: turns[0][group.name] for group in cut[start::2]} for start in (0, 1)]
    return TrialSizes(tuple(turns), tuple(alternate), crowded)


def _sizes(groups: Sequence[Group], before: Sequence[Sizes], fixed: Collection[int]) -> dict[str, int]:
    """A size for each group, so that together with its sizes before it is unlike every other, if that can be."""
    taken: set[tuple[int, ...]] = set()
    sizes: dict[str, int] = {}
    for group in groups:
        known = tuple(turn[group.name] for turn in before)
        lowest, start = max(group.least, 1), 0
        if len(before) != 1:
            lowest, start = max(lowest, group.size // 3), zlib.crc32(f"{len(before)} {group.name}".encode())
        choices = range(lowest, group.size)
        start %= len(choices)
        unlike = [size for size in (*choices[start:], *choices[:start]) if (*known, size) not in taken]
        if len(before) != 1:
            unlike.sort(key=lambda size: (size in fixed, not _is_prime(size)))  # stable: else in the order drawn
        sizes[group.name] = next(iter(unlike), choices[start])
        taken.add((*known, sizes[group.name]))
    return sizes


def _is_prime(size: int) -> bool:
    return size > 1 and all(size % factor for factor in range(2, math.isqrt(size) + 1))


def _agree(names: Sequence[str], turns: Sequence[Sizes]) -> bool:
    """Whether two groups have one size in every turn."""
    return len({tuple(turn[name] for turn in turns) for name in names}) < len(names)
