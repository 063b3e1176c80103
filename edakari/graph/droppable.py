"""Tries which of the residual branches that a trace found can really be dropped."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from torch import nn

from edakari.core.graph import Branch, Graph
from edakari.graph.verify import Fault

__all__ = ["branches_that_go"]

Trial = Callable[[Sequence[Branch]], Fault | None]
"""Cuts a network without some of its branches, and runs it."""


def branches_that_go(shadow: nn.Module, graph: Graph, trial: Trial) -> tuple[Branch, ...]:
    """The branches that a network runs without, each alone and together with any of the others.

    An outer branch takes inner ones with it and would hide what they do. So branches are tried by how deep others lie
    in them, the innermost first, and then all together. Those of one level lie side by side, and each trial compares
    what comes behind each of them, so one trial per level is enough where all go.

    Args:
        shadow: the network that was traced.
        graph: its graph, with all branches that the trace found.
        trial: returns the fault that occurs without some branches, None if there is none.
    """
    learned = {name for operator in graph.operators for name in operator.weights}.intersection(graph.parameters)
    # one that nothing that learns is left without is the network
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
    """For each branch by name, how many levels of others lie in it."""
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
    """The branches that can be dropped together; if one cannot, those with the same structure stay too."""
    left = list(branches)
    while left:
        fault = trial(left)
        if fault is None:
            break
        guilty = kinds[_guilty(left, fault, trial).name]
        left = [branch for branch in left if kinds[branch.name] != guilty]
    return left


def _guilty(branches: Sequence[Branch], fault: Fault, trial: Trial) -> Branch:
    """A branch that a network fails without, by bisection among those in the failing module, or else all."""
    suspects = _in_module(branches, fault.module)
    if len(suspects) < len(branches) and trial(suspects) is None:
        suspects = list(branches)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = half if trial(half) is not None else suspects[len(half) :]
    return suspects[0]


def _in_module(branches: Sequence[Branch], module: str) -> list[Branch]:
    """The branches in a module, or in the nearest one around it that has some."""
    while True:
        found = [branch for branch in branches if _lies_in(branch, module)]
        if found or not module:
            return found or list(branches)
        module = module.rpartition(".")[0]


def _lies_in(branch: Branch, module: str) -> bool:
    return not module or any(f"{path}.".startswith(f"{module}.") for path in (*branch.modules, branch.exit))
