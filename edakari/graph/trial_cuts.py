"""Trial cuts: every group is cut once, without data, before the graph is returned.

Code may hold widths that no trace can follow: a literal, or an integer that went through a float or a config object. A
trial cut finds the module whose code fails and the groups whose cut makes it fail, and pins these groups in every
module of that class. If only a very small size fails, the group's least size is raised instead.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from edakari.core.graph import Branch, Graph
from edakari.core.layout import Fixed, Layout, axes
from edakari.core.space import Sizes
from edakari.graph import algebra
from edakari.graph.axis_tracer import Shape
from edakari.graph.cutting import cut
from edakari.graph.droppable import sides_that_go
from edakari.graph.trial_sizes import TrialSizes, trial_sizes
from edakari.graph.verify import Fault, fault_of

__all__ = ["verify_by_cutting"]

ATTEMPTS = 60
SINGLY = 12
"""Number of suspects that are tried one by one. More are bisected first, or all pinned if bisection does not help."""


def verify_by_cutting(
    shadow: nn.Module, stored: Mapping[str, Shape], finish: Callable[[], Graph], literals: bool = False
) -> Graph:
    """Find the groups that can really be cut, and return the graph with them.

    Args:
        shadow: copy of the network that was traced, in evaluation mode; it does not change.
        stored: symbolic shapes of its parameters and buffers; axes that cannot be cut are pinned in them.
        finish: function that makes the graph of the current `stored`.
        literals: whether code gives sizes as literals. A wrong one may fit by accident, so more cuts are tried.
    """
    graph = finish()
    for _ in range(ATTEMPTS):
        sizes = trial_sizes(graph.groups, _fixed_lengths(graph))
        failed = _first_fault(shadow, graph, (*sizes.turns, *(sizes.alternate if literals else ())))
        if failed is None:
            branches, paths = _sides(shadow, graph, sizes)
            return dc.replace(graph, branches=branches, paths=paths)
        fault, failing = failed
        owner = type(shadow.get_submodule(fault.module)).__name__
        reason = f"{fault.module or 'the network'} ({owner}) fails without it: {fault.found}"
        for group, least in _needs(shadow, graph, fault, failing).items():
            for axis in _alike(shadow, graph, fault.module, group, stored):
                if least:
                    axis.least = max(axis.least, min(least, axis.size))
                else:
                    algebra.pin(axis, reason)
        graph = finish()
    for dims in stored.values():
        for dim in dims:
            algebra.pin(dim, f"no way was found to cut it in {ATTEMPTS} attempts")
    return finish()


def _fixed_lengths(graph: Graph) -> frozenset[int]:
    """Lengths of dimensions that no cut changes: a width that is cut to one of them could fit by accident."""
    outputs = (layout for operator in graph.operators for dims in operator.outputs for layout in dims)
    return frozenset(layout.size for layout in outputs if isinstance(layout, Fixed))


def _sides(shadow: nn.Module, graph: Graph, sizes: TrialSizes) -> tuple[tuple[Branch, ...], tuple[Branch, ...]]:
    """Find the branches and the paths without which the network runs."""

    def trial(branches: Sequence[Branch]) -> Fault | None:
        faults = (_fault(shadow, graph, turn, branches) for turn in (sizes.turns if sizes.crowded else sizes.turns[:1]))
        return next((fault for fault in faults if fault is not None), None)

    return sides_that_go(shadow, graph, trial)


def _fault(shadow: nn.Module, graph: Graph, sizes: Sizes, branches: Sequence[Branch] = ()) -> Fault | None:
    """The fault of the network with groups of these sizes and without some branches; None if there is none."""
    masks = {name: np.arange(graph[name].size) < size for name, size in sizes.items()}
    dropped = {branch.name: 0 for branch in branches}
    return fault_of(cut(shadow, graph, masks, dropped), graph, {**sizes, **dropped})


def _first_fault(shadow: nn.Module, graph: Graph, turns: Sequence[Sizes]) -> tuple[Fault, Sizes] | None:
    for sizes in turns:
        fault = _fault(shadow, graph, sizes) if sizes else None
        if fault is not None:
            return fault, sizes
    return None


def _needs(shadow: nn.Module, graph: Graph, fault: Fault, failing: Sizes) -> dict[str, int]:
    """Groups whose cut makes a module fail, each with the least size that it needs; 0 stands for its full size.

    These are the groups whose cut alone makes it fail; else one group that was cut too far for the others' sizes; else
    the groups each of which prevents the failure if it is not cut; else all groups of the module's tensors.

    Args:
        shadow: copy of the network that was traced.
        graph: graph of the network.
        fault: fault that was found.
        failing: sizes with which it fails.
    """
    suspects = _suspects(shadow, graph, fault, failing)
    if len(suspects) > SINGLY:
        return dict.fromkeys(suspects, 0)
    alone = [name for name in suspects if _fails_alike(shadow, graph, {name: failing[name]}, fault)]
    if alone:
        return {name: _least(shadow, graph, fault, name, {name: failing[name]}) for name in alone}
    rest = ({other: size for other, size in failing.items() if other != name} for name in suspects)
    enough = [
        name for name, others in zip(suspects, rest, strict=True) if not _fails_alike(shadow, graph, others, fault)
    ]
    for name in sorted(enough, key=lambda name: -graph[name].size):
        least = _least(shadow, graph, fault, name, failing)
        if least:
            return {name: least}
    return dict.fromkeys(enough or suspects, 0)


def _least(shadow: nn.Module, graph: Graph, fault: Fault, name: str, failing: Sizes) -> int:
    """Least size of a group with which a module runs while others are cut to `failing`; 0 for its full size."""
    largest = graph[name].size - 1

    def fails(size: int) -> bool:
        return _fails_alike(shadow, graph, {**failing, name: size}, fault)

    if failing[name] >= largest or fails(largest):
        return 0
    least, step = failing[name] + 1, 1
    while least < largest and fails(least):
        least, step = least + step, 2 * step
    return min(least, largest)


def _fails_alike(shadow: nn.Module, graph: Graph, sizes: Sizes, fault: Fault) -> bool:
    found = _fault(shadow, graph, sizes)
    return found is not None and found.module == fault.module


def _suspects(shadow: nn.Module, graph: Graph, fault: Fault, failing: Sizes) -> list[str]:
    """Groups of a module's own parameters, and of the inputs and outputs of the module and its children.

    If there are many, they are bisected as long as the module fails with one half.
    """
    names: dict[str, None] = {}
    for layouts in _seen_by(graph, fault.module):
        for layout in layouts:
            names.update(dict.fromkeys(axis.group for axis in axes(layout) if axis.group in failing))
    suspects = list(names or failing)
    while len(suspects) > SINGLY:
        middle = len(suspects) // 2
        halves = (suspects[:middle], suspects[middle:])
        sizes = ({name: failing[name] for name in half} for half in halves)
        found = next((h for h, s in zip(halves, sizes, strict=True) if _fails_alike(shadow, graph, s, fault)), None)
        if found is None:
            break
        suspects = found
    return suspects


def _seen_by(graph: Graph, module: str) -> Iterator[Sequence[Layout]]:
    start = f"{module}." if module else ""
    for name, dims in graph.layouts.items():
        if name.startswith(start) and name[len(start) :].count(".") <= 1:
            yield dims
    for call in graph.calls:
        if call.module == module or (call.module.startswith(start) and "." not in call.module[len(start) :]):
            yield from (*call.inputs, *call.outputs)


def _alike(
    shadow: nn.Module, graph: Graph, module: str, group: str, stored: Mapping[str, Shape]
) -> list[algebra.DimAxis]:
    """Axes of a group that a module needs, and the same axes of the other modules of its class."""
    start = f"{module}." if module else ""
    cls = type(shadow.get_submodule(module))
    others = [f"{path}." for path, other in shadow.named_modules() if type(other) is cls and path != module]
    found: list[algebra.DimAxis] = []
    for name, dims in graph.layouts.items():
        inside = name[len(start) :] if start and name.startswith(start) else None
        twins = [stored[other + inside] for other in others if other + inside in stored] if inside else []
        for index, layout in enumerate(dims):
            chosen = [axis.group == group for axis in axes(layout)]
            if any(chosen):
                for each in (stored[name], *(twin for twin in twins if index < len(twin))):
                    leaves = list(algebra.leaves(each[index]))
                    found.extend(leaf for leaf, take in zip(leaves, chosen, strict=False) if take)
    return found
