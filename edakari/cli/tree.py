"""The tree of a network's modules, as `edakari inspect` prints it."""

from __future__ import annotations

import dataclasses as dc
import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from edakari.core.layout import extent
from edakari.report.inspection import Inspection
from edakari.report.outline import condensed, group_names, name_in, pin_lines, runs
from edakari.report.pins import Pin
from edakari.report.structure import ModuleNode

__all__ = ["TreeSettings", "module_tree"]

GAP = "  "
ARROW = " → "
SHORTEST = 12
"""Smallest width of the column of group names; below it, the column of classes shrinks."""


@dc.dataclass(frozen=True)
class TreeSettings:
    """How much of a tree to show.

    Args:
        depth: number of levels below the network; 0 shows all.
        everything: show every module, including equal ones and those without cost.
        width: characters in a line.
    """

    depth: int = 0
    everything: bool = False
    width: int = 100


@dc.dataclass(frozen=True)
class _Line:
    """One module, or several equal ones, in columns."""

    guide: str
    name: str
    kind: str
    width: str
    groups: tuple[str, ...]
    macs: str
    params: str
    under: str
    """What guides the notes below it."""
    notes: tuple[str, ...]


def module_tree(found: Inspection, settings: TreeSettings) -> Text:
    """Format modules with their classes, widths, groups, fractions of cost, and unprunable positions."""
    tree = found.tree if settings.everything else condensed(found.tree)
    lines = list(_lines(tree, found, settings))
    titles = _Line("", "module", "class", "in → out", ("consumes", "produces"), "MACs %", "params %", "", ())
    widths = _widths([titles, *lines], settings.width)
    text = _row(titles, widths, "bold")
    for line in lines:
        text.append("\n").append_text(_row(line, widths))
        for note in line.notes:
            body = textwrap.wrap(note, max(settings.width - len(line.under) - 4, 30))
            for index, part in enumerate(body):
                text.append(f"\n{line.under}").append(f"{'▪ ' if not index else '  '}{part}", "yellow")
    return text


def _lines(tree: ModuleNode, found: Inspection, settings: TreeSettings) -> Iterator[_Line]:
    def share(cost: str, value: float, count: int = 1) -> str:
        whole = found.costs[cost]
        text = f"{value / whole * 100:.1f}" if whole else "–"
        return text if count == 1 else f"{count} × {text}"

    def visit(run: tuple[ModuleNode, ...], parent: str, guides: tuple[str, str], level: int) -> Iterator[_Line]:
        node, last = run[0], run[-1]
        opened = level < settings.depth or not settings.depth
        children = _runs(node.children, settings) if opened else ()
        inner = guides[1] + ("│  " if children else "   ")
        name = name_in(node, parent) if node.path or node.own else found.name.rpartition(":")[2]
        kind = f"{node.kind} {node.detail}".rstrip()
        yield _Line(
            guides[0],
            name if len(run) == 1 else f"{name} … {name_in(last, parent)}",
            kind if len(run) == 1 else f"{len(run)} × {kind}",
            _width(node),
            _groups(node, parent) if node.path or node.own else (),
            share("macs", node.macs, len(run)),
            share("params", node.params, len(run)),
            inner,
            tuple(_notes(node, opened)),
        )
        for index, child in enumerate(children):
            end = index == len(children) - 1
            branch, rest = ("└─ ", "   ") if end else ("├─ ", "│  ")
            yield from visit(child, node.path, (guides[1] + branch, guides[1] + rest), level + 1)

    yield from visit((tree,), "", ("", ""), 0)


def _runs(children: Sequence[ModuleNode], settings: TreeSettings) -> tuple[tuple[ModuleNode, ...], ...]:
    return tuple((child,) for child in children) if settings.everything else runs(children)


def _width(node: ModuleNode) -> str:
    sizes = [str(extent(layout, {})) for layout in (node.input_layout, node.output_layout) if layout is not None]
    return ARROW.join(sizes)


def _groups(node: ModuleNode, parent: str) -> tuple[str, ...]:
    """The consumed and produced groups; one entry if both are the same."""
    sides = [
        group_names(layout, parent) or "–" for layout in (node.input_layout, node.output_layout) if layout is not None
    ]
    return tuple(dict.fromkeys(sides)) if any(side != "–" for side in sides) else ()


def _notes(node: ModuleNode, opened: bool) -> Iterator[str]:
    for names in node.droppable:
        yield f"can be dropped: {names}" if names else "can be dropped"
    yield from pin_lines(node)
    if node.children and not opened:
        inside = len({(pin.tensor, pin.dim) for pin in _pins(node)})
        if inside:
            yield f"inside: {inside} dimension{'' if inside == 1 else 's'} left alone"


def _pins(node: ModuleNode) -> Iterator[Pin]:
    yield from node.pins
    for child in node.children:
        yield from _pins(child)


def _widths(lines: Sequence[_Line], total: int) -> tuple[int, ...]:
    """Widths of all columns; the column of group names takes the rest."""
    columns = [
        [len(line.guide) + len(line.name) for line in lines],
        [len(line.kind) for line in lines],
        [len(line.width) for line in lines],
        [len(ARROW.join(line.groups)) for line in lines],
        [len(line.macs) for line in lines],
        [len(line.params) for line in lines],
    ]
    name, kind, width, groups, macs, params = (max(column) for column in columns)
    rest = total - name - width - macs - params - 4 * len(GAP)
    if rest - kind - len(GAP) < min(SHORTEST, groups):
        return name, 0, width, max(min(groups, rest), SHORTEST), macs, params
    return name, kind, width, min(groups, rest - kind - len(GAP)), macs, params


def _row(line: _Line, widths: Sequence[int], style: str = "") -> Text:
    name, kind, width, groups, macs, params = widths
    text = Text(style=style)
    text.append(line.guide, "dim").append(line.name.ljust(name - len(line.guide)) + GAP)
    if kind:
        text.append(line.kind.ljust(kind) + GAP, "dim" if not style else "")
    text.append(line.width.ljust(width) + GAP)
    text.append(_fitted(line.groups, groups).ljust(groups) + GAP, "cyan" if not style else "")
    return text.append(line.macs.rjust(macs) + GAP + line.params.rjust(params))


def _fitted(names: Sequence[str], width: int) -> str:
    """Join names with arrows; if the text is too long, cut the beginning of the longest name."""
    names = list(names)
    while len(ARROW.join(names)) > width:
        longest = max(range(len(names)), key=lambda index: len(names[index]))
        names[longest] = f"…{names[longest][2:]}"
    return ARROW.join(names)
