"""A network as rows in the order of execution: which layers share a group, and where residual sums are."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from edakari.core.graph import Graph
from edakari.core.layout import Layout, axes
from edakari.report.outline import condensed, name_in, runs
from edakari.report.structure import ModuleNode, shortcuts

__all__ = ["Bracket", "Lane", "Role", "Row", "brackets", "lanes", "network_rows"]

Role = Literal["produces", "consumes", "carries"]
"""Role of a layer for a group: it produces its positions, consumes them, or passes them through."""


@dc.dataclass(frozen=True, slots=True)
class Row:
    """One layer.

    Args:
        node: the layer.
        block: path of its block; "" if there is none.
        name: name of the layer in the block.
        fold: title of the folded blocks if it is in one of them; otherwise "".
        roles: its role for each group.
    """

    node: ModuleNode
    block: str
    name: str
    fold: str
    roles: Mapping[str, Role]


@dc.dataclass(frozen=True, slots=True)
class Lane:
    """First and last row of a group, and the column in which it is drawn."""

    group: str
    first: int
    last: int
    column: int


@dc.dataclass(frozen=True, slots=True)
class Bracket:
    """A residual sum around rows.

    Args:
        first: first row.
        last: last row, after which the sum is computed.
        column: column of the bracket, so that brackets do not overlap.
        beside: rows on the shortcut, such as a projection.
        droppable: whether the branch can be dropped.
    """

    first: int
    last: int
    column: int
    beside: tuple[int, ...]
    droppable: bool


def network_rows(graph: Graph, tree: ModuleNode) -> tuple[Row, ...]:
    """Return the layers of a network as rows.

    Args:
        graph: graph of the network.
        tree: tree of its modules.
    """
    dims: dict[str, dict[str, set[int]]] = {}
    for group in graph.groups:
        for member in graph.members(group.name):
            path, _, last = member.tensor.rpartition(".")
            found = dims.setdefault(path, {}).setdefault(group.name, set())
            if "weight" in last and len(graph.layouts[member.tensor]) > 1:
                found.add(member.dim)
    rows = []
    for row in _layers(condensed(tree), "", ""):
        # norms first, because the layer that they join is more informative
        indices = [index for path in (*row.node.joined, row.node.path) for index in dims.get(path, {}).items()]
        rows.append(dc.replace(row, roles={name: _role(row.node, name, found) for name, found in indices}))
    return tuple(rows)


def lanes(graph: Graph, rows: Sequence[Row]) -> tuple[Lane, ...]:
    """Return a lane for each group in a layer; the longest lanes come first."""
    spans: dict[str, tuple[int, int]] = {}
    for index, row in enumerate(rows):
        for name in row.roles:
            spans[name] = (spans.get(name, (index, index))[0], index)
    names = sorted(spans, key=lambda name: spans[name][0] - spans[name][1])
    columns = _columns([spans[name] for name in names])
    return tuple(Lane(name, *spans[name], column) for name, column in zip(names, columns, strict=True))


def brackets(graph: Graph, rows: Sequence[Row]) -> tuple[Bracket, ...]:
    """Return the residual sums of a network as brackets."""
    branches = [(*branch.modules, branch.exit) for branch in graph.branches]
    found = []
    for shortcut in shortcuts(graph):
        inside = [
            index
            for index, row in enumerate(rows)
            if shortcut.first <= row.node.order < shortcut.last and _is_in(row.node.path, shortcut.module)
        ]
        if inside:
            first, last = inside[0], inside[-1]
            found.append((first, last, _beside(rows, inside), _droppable(rows, inside, branches)))
    columns = _columns([(first, last) for first, last, _, _ in found])
    return tuple(
        Bracket(first, last, column, beside, droppable)
        for (first, last, beside, droppable), column in zip(found, columns, strict=True)
    )


def _layers(node: ModuleNode, block: str, fold: str) -> Iterator[Row]:
    if not node.children:
        yield Row(node, block, name_in(node, block), fold, {})
        return
    for run in runs(node.children):
        alike = run[-1].path if len(run) < 3 else f"{run[1].path} … {run[-1].path.rpartition('.')[2]}"
        for index, child in enumerate(run):
            is_block = child.children and (node.container or not block)
            title = alike if index and child.children else ""
            yield from _layers(child, child.path if is_block else block, fold or title)


def _role(node: ModuleNode, group: str, dims: Collection[int]) -> Role:
    """Role of a layer for a group along these dimensions of its weight matrix."""
    if not dims:
        return "carries"
    enters, leaves = (
        layout is not None and _holds(layout, group) for layout in (node.input_layout, node.output_layout)
    )
    if enters and leaves and len(dims) == 1:
        return "carries"  # such as a depthwise convolution
    if enters != leaves:
        return "produces" if leaves else "consumes"
    return "produces" if 0 in dims else "consumes"


def _holds(layout: Layout, group: str) -> bool:
    return any(axis.group == group for axis in axes(layout))


def _columns(spans: Sequence[tuple[int, int]]) -> list[int]:
    """The first column in which each span overlaps no earlier span."""
    taken: list[list[tuple[int, int]]] = []
    columns = []
    for first, last in spans:
        free = (
            column for column, others in enumerate(taken) if all(last < start or end < first for start, end in others)
        )
        column = next(free, len(taken))
        if column == len(taken):
            taken.append([])
        taken[column].append((first, last))
        columns.append(column)
    return columns


def _beside(rows: Sequence[Row], inside: Sequence[int]) -> tuple[int, ...]:
    """Layers on the direct path from the input to the sum."""
    input_layout, output_layout = rows[inside[0]].node.input_layout, rows[inside[-1]].node.output_layout
    found = [
        index
        for index in inside
        if (rows[index].node.input_layout, rows[index].node.output_layout) == (input_layout, output_layout)
    ]
    return tuple(found) if input_layout != output_layout and len(found) < len(inside) else ()


def _droppable(rows: Sequence[Row], inside: Sequence[int], branches: Iterable[Iterable[str]]) -> bool:
    """Whether these rows form a branch that can be dropped."""
    paths = [rows[index].node.path for index in inside]
    return any(all(any(_is_in(path, module) for module in modules) for path in paths) for modules in branches)


def _is_in(path: str, module: str) -> bool:
    return not module or path == module or path.startswith(f"{module}.")
