"""What is left of a network that is searched: its units and branches, in the coordinates of the dense network."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.graph import Branch, Graph
from edakari.core.layout import Fixed, axes
from edakari.core.plan import DropBranch, Edit, KeepChannels, Plan
from edakari.core.space import Sizes
from edakari.errors import PlanError
from edakari.methods.masking.consumers import names_in
from edakari.methods.tickets.gates import LAST, GateGroup

__all__ = ["Keep", "Survivors", "emptied_branches", "names_after"]

Keep = Mapping[str, npt.NDArray[np.bool_]]
"""For each group, which of its current units stay, bool [units]."""


@dc.dataclass(frozen=True)
class Survivors:
    """The units and branches that are left.

    Args:
        units: for each group with gates, the indices of the units that are left, in the dense network.
        whole: sizes of the same groups in the dense network.
        dropped: names of the branches and paths that were dropped, in the dense network.
    """

    units: Mapping[str, npt.NDArray[np.int64]]
    whole: Sizes
    dropped: tuple[str, ...] = ()

    @classmethod
    def all_of(cls, groups: Sequence[GateGroup]) -> Survivors:
        """Return the survivors before anything is removed."""
        whole = {each.name: each.group.size for each in groups}
        return cls({name: np.arange(size) for name, size in whole.items()}, whole)

    @classmethod
    def of_plan(cls, plan: Plan, groups: Sequence[GateGroup], graph: Graph) -> Survivors:
        """Return the survivors of a plan for the dense network; see `plan`."""
        found = cls.all_of(groups)
        dropped = tuple(edit.branch for edit in plan.edits if isinstance(edit, DropBranch))
        kept = {edit.group: np.array(edit.indices) for edit in plan.edits if isinstance(edit, KeepChannels)}
        gone = _gone_with(graph, dropped, found.whole)
        units = {name: kept.get(name, all_of) for name, all_of in found.units.items() if name not in gone}
        return dc.replace(found, units=units, dropped=dropped)

    def after(self, keep: Keep, emptied: Mapping[str, Branch], graph: Graph) -> Survivors:
        """Return what is left when units are removed; a branch without any unit is dropped.

        Args:
            keep: units that stay; a group that is not named stays as it is.
            emptied: the branch that each group empties, see `emptied_branches`.
            graph: graph of the dense network.
        """
        units = {name: found[keep[name]] if name in keep else found for name, found in self.units.items()}
        lost = [emptied[name].name for name, found in units.items() if not len(found)]
        dropped = tuple(dict.fromkeys((*self.dropped, *lost)))
        gone = _gone_with(graph, dropped, self.whole)
        return dc.replace(
            self, units={name: found for name, found in units.items() if name not in gone}, dropped=dropped
        )

    def sizes(self) -> dict[str, int]:
        """Return the number of units of each group that is left, and 0 for each dropped branch."""
        return {**{name: len(found) for name, found in self.units.items()}, **dict.fromkeys(self.dropped, 0)}

    def plan(self, graph: Graph, method: str = "") -> Plan:
        """Return the plan from the dense network to what is left.

        Args:
            graph: graph of the dense network.
            method: name of the method, for the plan.
        """
        edits: list[Edit] = [
            KeepChannels(name, tuple(found.tolist()))
            for name, found in self.units.items()
            if len(found) < self.whole[name]
        ]
        edits += [DropBranch(name) for name in self.dropped]
        return Plan(tuple(edits), graph.fingerprint, graph.inputs, method)

    def step(self, later: Survivors, dense: Graph, now: Graph, names: Mapping[str, str]) -> Plan:
        """Return the plan from this network to a later one.

        Args:
            later: what is left then.
            dense: graph of the dense network.
            now: graph of this network.
            names: names of the groups in `now`, by those in the dense network.
        """
        edits: list[Edit] = []
        for name, found in later.units.items():
            if len(found) < len(self.units[name]):
                keep = np.flatnonzero(np.isin(self.units[name], found))
                edits.append(KeepChannels(names[name], tuple(keep.tolist())))
        known = {branch.name: branch for branch in dense.droppable}
        edits += [DropBranch(_same(known[name], now).name) for name in later.dropped if name not in self.dropped]
        return Plan(tuple(edits), now.fingerprint, now.inputs)


def emptied_branches(graph: Graph, groups: Sequence[GateGroup]) -> dict[str, Branch]:
    """Find, for each group, the smallest branch or path whose output does not depend on its input without the group.

    Such a branch can be dropped when no unit of the group is left. Groups without such a branch are not named.

    Args:
        graph: graph of the dense network.
        groups: groups with gates.
    """
    branches = sorted(graph.droppable, key=lambda branch: len(branch.operators))
    found = {}
    for each in groups:
        members = {member.tensor for member in graph.members(each.name)} & set(graph.parameters)
        for branch in branches:
            if members <= {*branch.parameters} and not _passes(graph, branch, each.name):
                found[each.name] = branch
                break
    return found


def names_after(graph: Graph, now: Graph, groups: Mapping[str, GateGroup]) -> dict[str, str]:
    """Find the names of groups after a cut: a group is named by its first layer, which may have been removed.

    Args:
        graph: graph of the dense network.
        now: graph of the network after the cut.
        groups: groups that are left, by their names in `graph`.

    Returns:
        The names in `now` by those in `graph`, without groups that have no batch norm any more. A group with one unit
        left is none for a trace; its name ends in `LAST`.
    """
    found = {}
    for name, each in groups.items():
        norm = next((norm for norm in each.norms if norm in now.layouts), None)
        if norm is None:
            continue
        before, after = ([axis.group for axis in axes(each.layouts[norm][0])] for each in (graph, now))
        if len(before) == len(after):
            found[name] = after[before.index(name)]
        elif now.layouts[norm][0] == Fixed(1):
            found[name] = f"{name}{LAST}"
    return found


def _passes(graph: Graph, branch: Branch, group: str) -> bool:
    """Whether the output of a branch depends on its input by a way on which the group does not lie."""
    inside, alive = {*branch.operators}, set[int]()
    for index in sorted(inside):
        operator = graph.operators[index]
        carries = any(group in names_in(*dims) for dims in operator.outputs)
        if not carries and any(source not in inside or source in alive for source in operator.sources):
            alive.add(index)
    return max(inside) in alive


def _gone_with(graph: Graph, dropped: Sequence[str], groups: Sizes) -> set[str]:
    """The groups of which nothing is left without some branches."""
    gone = {name for branch in graph.droppable if branch.name in dropped for name in branch.parameters}
    tensors = {name: {member.tensor for member in graph.members(name)} & set(graph.parameters) for name in groups}
    return {name for name, found in tensors.items() if found and found <= gone}


def _same(branch: Branch, now: Graph) -> Branch:
    """The branch of a network after a cut that was this one before; its name may have changed.

    Raises:
        PlanError: it can no longer be dropped.
    """
    found = [each for each in now.droppable if each.exit == branch.exit]
    if not found:
        raise PlanError(f"branch {branch.name!r} can no longer be dropped after the earlier cuts")
    return max(
        found, key=lambda each: len({*each.modules} & {*branch.modules}) - len({*each.modules} ^ {*branch.modules})
    )
