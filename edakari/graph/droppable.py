"""Tests which of the residual branches and parallel paths in a trace can be dropped."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from torch import nn

from edakari.core.graph import Branch, Graph
from edakari.graph.verify import Fault

__all__ = ["sides_that_go"]

Trial = Callable[[Sequence[Branch]], Fault | None]
"""Cuts a network without some of its branches, and runs it."""


def sides_that_go(shadow: nn.Module, graph: Graph, trial: Trial) -> tuple[tuple[Branch, ...], tuple[Branch, ...]]:
    """Find the branches and the paths without which a network runs, each alone and together with any of the others.

    All are tried at once first. If that fails, branches are tried without paths, and then paths besides the branches
    that can be dropped: so no path prevents a branch.

    Args:
        shadow: copy of the network that was traced.
        graph: graph with all branches and paths that the trace found.
        trial: function that returns the fault without some branches, None if there is none.
    """
    learned = {name for operator in graph.operators for name in operator.weights}.intersection(graph.parameters)
    # a branch that holds all weights is the network itself
    every = [branch for branch in graph.droppable if not learned.issubset(branch.parameters)]
    names = {branch.name for branch in graph.paths}
    branches = [branch for branch in every if branch.name not in names]
    paths = [branch for branch in every if branch.name in names]
    if paths and all(trial(level) is None for level in _attempts(every)):
        return tuple(branches), tuple(paths)
    kinds = {branch.name: _kind(branch, shadow, graph) for branch in every}
    branches = _that_go(branches, trial, kinds)
    paths = _proven(_that_go(paths, trial, kinds), lambda some: trial([*branches, *some]), kinds)
    return tuple(branches), tuple(paths)


def _that_go(branches: Sequence[Branch], trial: Trial, kinds: dict[str, Hashable]) -> list[Branch]:
    """Find the branches that can be dropped, level by level and then all together."""
    proven: set[str] = set()
    for level in _levels(branches):
        proven.update(branch.name for branch in _proven(level, trial, kinds))
    together = [branch for branch in branches if branch.name in proven]
    return _proven(together, trial, kinds) if len(_levels(together)) > 1 else together


def _attempts(branches: Sequence[Branch]) -> list[Sequence[Branch]]:
    """Each level, and all levels together if there are several."""
    levels = _levels(branches)
    return [*levels, branches] if len(levels) > 1 else levels


def _levels(branches: Sequence[Branch]) -> list[Sequence[Branch]]:
    """Branches by how deeply others are nested in them, innermost first.

    Dropping an outer branch also drops inner ones and would hide their faults. Branches of one level lie side by side.
    Each trial compares the tensors after each of them, so one trial per level is enough if all can be dropped.
    """
    heights = _heights(branches)
    return [
        [branch for branch in branches if heights[branch.name] == height] for height in sorted(set(heights.values()))
    ]


def _heights(branches: Iterable[Branch]) -> dict[str, int]:
    """For each branch by name, the number of levels of branches nested in it."""
    innermost: dict[int, Branch] = {}
    heights: dict[str, int] = {}
    around: dict[str, Branch | None] = {}
    for branch in sorted(branches, key=lambda branch: -len(branch.region)):
        around[branch.name] = innermost.get(branch.region[0])
        innermost.update(dict.fromkeys(branch.region, branch))
    for name in reversed(around):
        heights.setdefault(name, 0)
        outer = around[name]
        if outer is not None:
            heights[outer.name] = max(heights.get(outer.name, 0), heights[name] + 1)
    return heights


def _kind(branch: Branch, shadow: nn.Module, graph: Graph) -> Hashable:
    """A key that branches of blocks with the same structure share."""
    classes = tuple(type(shadow.get_submodule(path)) for path in (*branch.modules, branch.exit))
    return classes, tuple(graph.operators[index].name for index in branch.region)


def _proven(branches: Sequence[Branch], trial: Trial, kinds: dict[str, Hashable]) -> list[Branch]:
    """Find the branches that can be dropped together; if one cannot, those with the same structure stay too."""
    left = list(branches)
    while left:
        fault = trial(left)
        if fault is None:
            break
        guilty = kinds[_guilty(left, fault, trial).name]
        left = [branch for branch in left if kinds[branch.name] != guilty]
    return left


def _guilty(branches: Sequence[Branch], fault: Fault, trial: Trial) -> Branch:
    """Find a branch without which the network fails, by bisection in the failing module, or else among all."""
    suspects = _in_module(branches, fault.module)
    if len(suspects) < len(branches) and trial(suspects) is None:
        suspects = list(branches)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = half if trial(half) is not None else suspects[len(half) :]
    return suspects[0]


def _in_module(branches: Sequence[Branch], module: str) -> list[Branch]:
    """The branches in a module, or in the nearest enclosing module that has branches."""
    while True:
        found = [branch for branch in branches if _lies_in(branch, module)]
        if found or not module:
            return found or list(branches)
        module = module.rpartition(".")[0]


def _lies_in(branch: Branch, module: str) -> bool:
    return not module or any(f"{path}.".startswith(f"{module}.") for path in (*branch.modules, branch.exit))
