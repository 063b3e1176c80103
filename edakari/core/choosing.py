"""Choice of the groups to prune, their legal sizes, and fixed sizes."""

from __future__ import annotations

import dataclasses as dc
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from edakari.core.budget import Budget
from edakari.core.graph import Graph
from edakari.core.settings import Count, OpenFraction, settings
from edakari.core.space import Group, legal_sizes, limited
from edakari.errors import SettingsError, nearest

__all__ = ["TIMED_STEP", "Chosen", "Groups", "choose"]

TIMED_STEP = 8
"""What widths are rounded to under a budget of latency: runtimes work in eights."""
Width = str | int | float
"""Number of channels, or a fraction of the group: "75%" or 0.75."""


@settings
class Groups:
    """Which groups may be pruned, and to which sizes.

    A pattern matches the name of a group, or the dotted path of a module whose width is the group.

    Args:
        round_to: widths become multiples of this number; None is 8 if the budget has a latency, and 1 otherwise.
        min_channels: smallest size of a group; below 1, a fraction of the group.
        include: patterns of groups, or of modules whose width may be pruned, such as "layer*.conv1"; none is all.
        exclude: patterns of groups, or of modules whose width is not pruned.
        widths: fixed sizes by pattern, such as `{"layer4.*": "75%", "conv1": 32}`: a number of channels or a fraction,
            rounded to the nearest legal size. The last matching pattern counts and overrides `include` and `exclude`.
            The budget is spent on the other groups.
    """

    round_to: Count | None = None
    min_channels: Count | OpenFraction = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    widths: Mapping[str, str | int | float] = dc.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.widths, Mapping):
            raise SettingsError(f"Groups: widths must map patterns to sizes, found {self.widths!r}")
        for pattern, width in self.widths.items():
            _share_or_count(pattern, width)

    def under(self, budget: Budget) -> Groups:
        """Return these settings under a budget, with a number for `round_to`."""
        usual = TIMED_STEP if budget.latencies else 1
        return dc.replace(self, round_to=self.round_to or usual)


@dc.dataclass(frozen=True)
class Chosen:
    """Result of applying `Groups` to a network.

    Args:
        free: the groups on which the budget is spent, with their legal sizes.
        fixed: size of each group with a fixed size.
        every: both, in the network's order.
    """

    free: tuple[Group, ...]
    fixed: Mapping[str, int]
    every: tuple[Group, ...]


def choose(graph: Graph, groups: Groups) -> Chosen:
    """Choose the groups of a network to prune, and the groups with fixed sizes.

    Args:
        graph: graph of the network.
        groups: the groups that may be pruned. A pattern matches a group's name, or the dotted path of a module with
            the group in the first dimension of a parameter, which is the module's output width.

    Raises:
        SettingsError: a pattern matches no group (the message suggests a name), or a width is larger than its group.
    """
    names = {group.name: _names(graph, group) for group in graph.groups}
    for key in ("include", "exclude", "widths"):
        for pattern in getattr(groups, key):
            _require_met(key, pattern, names)

    def met(group: Group, patterns: Iterable[str]) -> list[str]:
        return [pattern for pattern in patterns if fnmatch.filter(names[group.name], pattern)]

    width_of = {group.name: groups.widths[found[-1]] for group in graph.groups if (found := met(group, groups.widths))}
    sized = [
        group
        for group in graph.groups
        if group.name in width_of
        or ((not groups.include or met(group, groups.include)) and not met(group, groups.exclude))
    ]
    every = limited(sized, round_to=groups.round_to or 1, min_channels=groups.min_channels)
    fixed = {group.name: _fixed_size(group, width_of[group.name]) for group in every if group.name in width_of}
    return Chosen(tuple(group for group in every if group.name not in fixed), fixed, every)


def _names(graph: Graph, group: Group) -> set[str]:
    return {group.name, *(m.tensor.rpartition(".")[0] for m in graph.members(group.name) if m.dim == 0)}


def _require_met(key: str, pattern: str, names: Mapping[str, set[str]]) -> None:
    if not any(fnmatch.filter(found, pattern) for found in names.values()):
        hint = nearest(pattern, sorted(set().union(*names.values()) - {""}))
        raise SettingsError(
            f"groups.{key}: {pattern!r} matches no group or module"
            + (f"; did you mean {hint!r}?" if hint else ".")
            + " `edakari inspect` lists the groups."
        )


def _share_or_count(pattern: str, width: Any) -> float | int:
    """Parse a fraction of a group, above 0 and at most 1, to a float, or a number of channels to an int.

    Raises:
        SettingsError: the width is neither.
    """
    try:
        text = isinstance(width, str) and width.strip().endswith("%")
        found = float(width.strip()[:-1]) / 100 if text else width
        if (isinstance(found, float) and 0 < found <= 1) or (type(found) is int and found >= 1):
            return found
    except ValueError:
        pass
    raise SettingsError(
        f"the width of {pattern!r} must be a number of channels such as 32, or a fraction such as '75%', "
        f"found {width!r}"
    )


def _fixed_size(group: Group, width: Width) -> int:
    """The legal size nearest to a width; the larger of two equally near sizes."""
    wanted = _share_or_count(group.name, width)
    if isinstance(wanted, int) and wanted > group.size:
        raise SettingsError(f"groups.widths: {width!r} channels for group {group.name!r}, which has only {group.size}")
    target = wanted * group.size if isinstance(wanted, float) else wanted
    return min(legal_sizes(group)[::-1], key=lambda size: abs(size - target))
