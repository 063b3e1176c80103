"""Sizes of trial cuts, chosen so that no two widths are equal in all of them by accident."""

from __future__ import annotations

import dataclasses as dc
import itertools
import math
import zlib
from collections.abc import Collection, Iterable, Sequence

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
        crowded: whether the first trial cut cannot distinguish all groups.
    """

    turns: tuple[Sizes, ...]
    alternate: tuple[Sizes, ...]
    crowded: bool


def trial_sizes(groups: Sequence[Group], fixed: Collection[int] = ()) -> TrialSizes:
    """Choose the trial cuts: to medium sizes that differ between groups, then to the smallest sizes.

    Code may compare two widths that are only equal in the dense network. It fails in one of the trial cuts: two groups
    with the same size in the first cut have different sizes in another. More than two cuts are only needed if a network
    has many groups of a few positions. Numbers of heads or groups are seldom compared with other widths, so they add no
    further cut.

    Args:
        groups: groups with their least sizes.
        fixed: lengths that no cut changes; medium sizes avoid them if possible. Medium sizes are prime if possible:
            then none divides another, which code that reshapes by a wrong size needs.
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
    """A size for each group that, together with its previous sizes, differs from all others if possible."""
    taken: set[tuple[int, ...]] = set()
    sizes: dict[str, int] = {}
    for group in groups:
        known = tuple(turn[group.name] for turn in before)
        lowest, start = max(group.least, 1), 0
        if len(before) != 1:
            lowest, start = max(lowest, group.size // 3), zlib.crc32(f"{len(before)} {group.name}".encode())
        choices = range(lowest, group.size)
        start %= len(choices)
        unlike = (size for size in itertools.chain(choices[start:], choices[:start]) if (*known, size) not in taken)
        found = next(unlike, None) if len(before) == 1 else _best(unlike, fixed)
        sizes[group.name] = choices[start] if found is None else found
        taken.add((*known, sizes[group.name]))
    return sizes


def _best(sizes: Iterable[int], fixed: Collection[int]) -> int | None:
    """The first size that is prime and not fixed; else the first that is not fixed; else prime; else any."""
    found: dict[tuple[bool, bool], int] = {}
    for size in sizes:
        key = (size in fixed, not _is_prime(size))
        found.setdefault(key, size)
        if key == (False, False):
            break
    return found[min(found)] if found else None


def _is_prime(size: int) -> bool:
    return size > 1 and all(size % factor for factor in range(2, math.isqrt(size) + 1))


def _agree(names: Sequence[str], turns: Sequence[Sizes]) -> bool:
    """Whether two groups have the same size in every trial cut."""
    return len({tuple(turn[name] for turn in turns) for name in names}) < len(names)
