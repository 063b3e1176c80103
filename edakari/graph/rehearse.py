"""A rehearsal of pruning: every group is cut once, without data, before anybody relies on it.

Code may hold widths that no trace can follow: a literal, a number that went through a float or a config object. The
rehearsal finds the module whose code fails, finds out which groups it is that it cannot do without, and keeps these
whole, in every module of that class.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from edakari.core.graph import Branch, Graph
from edakari.core.layout import Layout, Mask
from edakari.core.layout import axes as axes_of
from edakari.core.space import Group
from edakari.graph import axes
from edakari.graph.cut import cut
from edakari.graph.flow import Dims
from edakari.graph.verify import Fault, fault_of

__all__ = ["rehearsed"]

ATTEMPTS = 60
SINGLY = 12
"""How many suspects are tried one by one; more are all kept whole."""


def rehearsed(shadow: nn.Module, stored: Mapping[str, Dims], finish: Callable[[], Graph], turns: int = 1) -> Graph:
    """A graph whose groups can really be cut.

    Args:
        shadow: the network that was traced, in evaluation mode; stays as it is.
        stored: dimensions of its parameters and buffers; what cannot be cut is pinned in them.
        finish: makes the graph of what `stored` says now.
        turns: how often to cut, each time otherwise; more than one where a wrong number may fit by chance.
    """
    graph = finish()
    for _ in range(ATTEMPTS):
        fault = _first_fault(shadow, graph, turns)
        if fault is None:
            return _with_branches_that_go(shadow, graph)
        culprits = _culprits(shadow, graph, fault)
        owner = type(shadow.get_submodule(fault.module)).__name__
        reason = f"{fault.module or 'the network'} ({owner}) fails without it: {fault.found}"
        for axis in _alike(shadow, graph, fault.module, culprits, stored):
            axes.pin(axis, reason)
        graph = finish()
    for dims in stored.values():
        for dim in dims:
            axes.pin(dim, f"no way was found to cut it in {ATTEMPTS} attempts")
    return finish()


def _with_branches_that_go(shadow: nn.Module, graph: Graph) -> Graph:
    """Without the branches that do not go: those in the modules that fail when all are dropped and all groups cut."""
    branches = graph.branches
    while branches:
        fault = _fault(shadow, graph, graph.groups, branches)
        if fault is None:
            break
        home = fault.module
        blamed = [branch for branch in branches if _lies_in(branch, home)]
        while home and not blamed:
            home = home.rpartition(".")[0]
            blamed = [branch for branch in branches if _lies_in(branch, home)]
        branches = tuple(branch for branch in branches if branch not in blamed)
    return dc.replace(graph, branches=branches)


def _lies_in(branch: Branch, module: str) -> bool:
    return not module or any(f"{path}.".startswith(f"{module}.") for path in (*branch.modules, branch.exit))


def _fault(
    shadow: nn.Module, graph: Graph, groups: Iterable[Group], branches: Sequence[Branch] = (), turn: int = 0
) -> Fault | None:
    masks = {group.name: _half(group, place, turn) for place, group in enumerate(groups)}
    dropped = {branch.name: 0 for branch in branches}
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    return fault_of(cut(shadow, graph, masks, dropped), graph, {**sizes, **dropped})


def _first_fault(shadow: nn.Module, graph: Graph, turns: int) -> Fault | None:
    parts = (graph.groups, graph.groups[::2], graph.groups[1::2])
    faults = (_fault(shadow, graph, groups, turn=turn) for turn, groups in enumerate(parts[:turns]) if groups)
    return next((fault for fault in faults if fault is not None), None)


def _half(group: Group, place: int, turn: int) -> Mask:
    """About half of a group, with sizes that differ between groups so that no two widths agree by chance."""
    least = max(1, group.size // 3)
    span = max(1, group.size - least)
    beyond = (place * 7 + 3) % span
    size = least + (span - 1 - beyond if turn % 2 else beyond)
    return np.arange(group.size) < min(size, group.size - 1)


def _culprits(shadow: nn.Module, graph: Graph, fault: Fault) -> list[Group]:
    """The groups that a module fails without.

    Those that it fails without each by itself; else those of which one more, kept whole, would have been enough; else
    all that touch it.
    """
    suspects = _suspects(graph, fault.module) or list(graph.groups)
    if len(suspects) > SINGLY:
        return suspects
    alone = [group for group in suspects if _fails_alike(shadow, graph, [group], fault)]
    if alone:
        return alone
    rest = ([other for other in graph.groups if other is not group] for group in suspects)
    enough = [
        group for group, others in zip(suspects, rest, strict=True) if not _fails_alike(shadow, graph, others, fault)
    ]
    return enough or suspects


def _fails_alike(shadow: nn.Module, graph: Graph, groups: Sequence[Group], fault: Fault) -> bool:
    found = _fault(shadow, graph, groups)
    return found is not None and found.module == fault.module


def _suspects(graph: Graph, module: str) -> list[Group]:
    """The groups of a module's own parameters and of what goes in and out of it and its children."""
    names: dict[str, None] = {}
    for layouts in _seen_by(graph, module):
        for layout in layouts:
            names.update(dict.fromkeys(axis.group for axis in axes_of(layout)))
    return [graph[name] for name in names]


def _seen_by(graph: Graph, module: str) -> Iterator[Sequence[Layout]]:
    start = f"{module}." if module else ""
    for name, dims in graph.layouts.items():
        if name.startswith(start) and name[len(start) :].count(".") <= 1:
            yield dims
    for call in graph.calls:
        if call.module == module or (call.module.startswith(start) and "." not in call.module[len(start) :]):
            yield from (*call.inputs, *call.outputs)


def _alike(
    shadow: nn.Module, graph: Graph, module: str, culprits: Collection[Group], stored: Mapping[str, Dims]
) -> list[axes.Axis]:
    """The axes of the culprits, and those in the same places of the other modules of the class."""
    wanted = {group.name for group in culprits}
    start = f"{module}." if module else ""
    cls = type(shadow.get_submodule(module))
    others = [f"{path}." for path, other in shadow.named_modules() if type(other) is cls and path != module]
    found: list[axes.Axis] = []
    for name, dims in graph.layouts.items():
        inside = name[len(start) :] if start and name.startswith(start) else None
        twins = [stored[other + inside] for other in others if other + inside in stored] if inside else []
        for place, layout in enumerate(dims):
            chosen = [axis.group in wanted for axis in axes_of(layout)]
            if any(chosen):
                for each in (stored[name], *(twin for twin in twins if place < len(twin))):
                    leaves = list(axes.leaves(each[place]))
                    found.extend(leaf for leaf, take in zip(leaves, chosen, strict=False) if take)
    return found
