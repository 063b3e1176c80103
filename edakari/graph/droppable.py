"""Tests which of the residual branches in a trace can be dropped."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from torch import nn

from edakari.core.graph import Branch, Graph
from edakari.graph.verify import Fault

__all__ = ["branches_that_go"]

Trial = Callable[[Sequence[Branch]], Fault | None]
"""Cuts a network without some of its branches, and runs it."""


def branches_that_go(shadow: nn.Module, graph: Graph, trial: Trial) -> tuple[Branch, ...]:
    """Find the branches without which a network runs, each alone and together with any of the others.

    Dropping an outer branch also drops inner ones and would hide their faults. Branches are therefore tried by how
    deeply others are nested in them, innermost first, and then all together. Branches of one level lie side by side.
    Each trial compares the tensors after each of them, so one trial per level is enough if all can be dropped.

    Args:
        shadow: copy of the network that was traced.
        graph: graph with all branches that the trace found.
        trial: function that returns the fault without some branches, None if there is none.
    """
    learned = {name for operator in graph.operators for name in operator.weights}.intersection(graph.parameters)
    # a branch that holds all weights is the network itself
    branches = tuple(branch for branch in graph.branches if not learned.issubset(branch.parameters))
    heights = _heights(branches)
    kinds = {branch.name: _kind(branch, shadow, graph) for branch in branches}
    proven: set[str] = set()
    for height in sorted(set(heights.values())):
        level = [branch for branch in branches if heights[branch.name] == height]
        proven.update(branch.name for branch in _proven(level, trial, kinds))
    together = [branch for branch in branches if branch.name in proven]
    if len({heights[branch.name] for branch in together}) > 1:
        together = _proven(together, trial, kinds)
    return tuple(together)


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
