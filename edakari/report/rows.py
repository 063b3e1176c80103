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
"""What a layer does with a group: it produces its positions, consumes them, or lets them through."""


@dc.dataclass(frozen=True, slots=True)
class Row:
    """One layer.

    Args:
        node: the layer.
        block: path of the block that it is part of; "" is none.
        name: of the layer in the block.
        fold: title of the blocks that are like the one before, if it is in one of them; else "".
        roles: what it does with each group.
    """

    node: ModuleNode
    block: str
    name: str
    fold: str
    roles: Mapping[str, Role]


@dc.dataclass(frozen=True, slots=True)
class Lane:
    """From which row to which a group lives, and the column in which it is drawn."""

    group: str
    first: int
    last: int
    column: int


@dc.dataclass(frozen=True, slots=True)
class Bracket:
    """A residual sum around rows.

    Args:
        first: row.
        last: row, after which the sum is taken.
        column: in which it is drawn, so that brackets do not meet.
        beside: rows in it that lie on the shortcut, such as a projection.
        droppable: whether what it is around can be dropped whole.
    """

    first: int
    last: int
    column: int
    beside: tuple[int, ...]
    droppable: bool


def network_rows(graph: Graph, tree: ModuleNode) -> tuple[Row, ...]:
    """The layers of a network.

    Args:
        graph: of the network.
        tree: its modules.
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
        # norms first, for the layer that they joined says more
        indices = [index for path in (*row.node.joined, row.node.path) for index in dims.get(path, {}).items()]
        rows.append(dc.replace(row, roles={name: _role(row.node, name, found) for name, found in indices}))
    return tuple(rows)


def lanes(graph: Graph, rows: Sequence[Row]) -> tuple[Lane, ...]:
    """A lane for each group that is in a layer; those that live longest come first."""
    spans: dict[str, tuple[int, int]] = {}
    for index, row in enumerate(rows):
        for name in row.roles:
            spans[name] = (spans.get(name, (index, index))[0], index)
    names = sorted(spans, key=lambda name: spans[name][0] - spans[name][1])
    columns = _columns([spans[name] for name in names])
    return tuple(Lane(name, *spans[name], column) for name, column in zip(names, columns, strict=True))


def brackets(graph: Graph, rows: Sequence[Row]) -> tuple[Bracket, ...]:
    """The residual sums of a network."""
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
    """What a layer does with a group that is along these dimensions of its weight matrix."""
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
    """The first column in which a span meets no earlier one."""
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
    """Layers that go straight from what came in to what goes out, where others take more steps."""
    input_layout, output_layout = rows[inside[0]].node.input_layout, rows[inside[-1]].node.output_layout
    found = [
        index
        for index in inside
        if (rows[index].node.input_layout, rows[index].node.output_layout) == (input_layout, output_layout)
    ]
    return tuple(found) if input_layout != output_layout and len(found) < len(inside) else ()


def _droppable(rows: Sequence[Row], inside: Sequence[int], branches: Iterable[Iterable[str]]) -> bool:
    """Whether these rows are those of a branch that can be dropped."""
    paths = [rows[index].node.path for index in inside]
    return any(all(any(_is_in(path, module) for module in modules) for path in paths) for modules in branches)


def _is_in(path: str, module: str) -> bool:
    return not module or path == module or path.startswith(f"{module}.")
