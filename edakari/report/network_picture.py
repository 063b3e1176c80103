"""The picture of a network: one line for each layer, one lane for each group; colours come from the page's style."""

from __future__ import annotations

import dataclasses as dc
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from edakari.core.layout import Axis, Concat, Fixed, Layout, Product, axes, extent
from edakari.core.optional import needs
from edakari.report.inspection import Inspection
from edakari.report.outline import pin_lines
from edakari.report.rows import Bracket, Lane, Row, brackets, lanes, network_rows

with needs("report", "a report"):
    from markupsafe import Markup, escape

__all__ = ["Part", "Picture", "colours", "draw_network"]

WIDTH, LINE, GAP = 1080, 20, 7
NAME, LANES, MIDDLE, SUMS, SIZES, MACS, PARAMS = 138, 330, 606, 722, 780, 868, 976
"""Left edges of the columns, px; the middle is the layer between what it consumes and what it produces."""
LANE, LONGEST, BAR, THICK = 18.0, 104.0, 58.0, 12.0
MANY = 60
"""With more layers than this, blocks that equal the previous block are folded."""
STRONG, SOFT = 12, 7
"""Numbers of colours: the groups with the largest costs have individual colours."""


@dc.dataclass(frozen=True)
class Part:
    """A part of the picture; a part with a title can be folded."""

    title: str
    note: str
    drawing: Markup
    summary: Markup


@dc.dataclass(frozen=True)
class Picture:
    """A network from its input to its output."""

    parts: tuple[Part, ...]
    layers: int
    has_sums: bool
    has_droppable: bool


@dc.dataclass(frozen=True)
class _Scene:
    """The drawn elements and their positions."""

    found: Inspection
    rows: Sequence[Row]
    lanes: Sequence[Lane]
    brackets: Sequence[Bracket]
    colours: Mapping[str, str]
    numbers: Mapping[str, int]
    left: float
    pitch: float
    widest: float
    most: Mapping[str, float]


def colours(found: Inspection) -> dict[str, str]:
    """Return the colour class of each group; groups with the largest cost have individual colours."""
    ranked = sorted(found.shares, key=lambda name: -max(found.shares[name]["macs"], found.shares[name]["params"]))
    strong = set(ranked[:STRONG])
    hue, tint = itertools.count(), itertools.count()
    return {
        group.name: f"h{next(hue)}" if group.name in strong else f"t{next(tint) % SOFT}" for group in found.graph.groups
    }


def draw_network(found: Inspection) -> Picture:
    """Draw the network.

    Args:
        found: inspection of the network.
    """
    scene = _scene(found)
    folds = [row.fold if len(scene.rows) > MANY else "" for row in scene.rows]
    parts = []
    for fold, run in itertools.groupby(range(len(folds)), key=lambda index: folds[index]):
        indices = list(run)
        parts.append(
            Part(
                fold,
                _folded_note(scene, indices) if fold else "",
                _drawing(scene, indices),
                _summary(scene, indices) if fold else Markup(),
            )
        )
    return Picture(
        tuple(parts), len(scene.rows), bool(scene.brackets), any(bracket.droppable for bracket in scene.brackets)
    )


def _scene(found: Inspection) -> _Scene:
    rows = network_rows(found.graph, found.tree)
    tracks = lanes(found.graph, rows)
    columns = max((lane.column for lane in tracks), default=0) + 1
    layouts = [
        layout for row in rows for layout in (row.node.input_layout, row.node.output_layout) if layout is not None
    ]
    room = MIDDLE - LONGEST - LANES - 22
    pitch = min(LANE, room / columns)
    return _Scene(
        found,
        rows,
        tracks,
        brackets(found.graph, rows),
        colours(found),
        {group.name: index for index, group in enumerate(found.graph.groups)},
        LANES + (room - pitch * columns) / 2,
        pitch,
        max((extent(layout, {}) for layout in layouts), default=1),
        {
            "macs": max((row.node.macs for row in rows), default=0.0),
            "params": max((row.node.params for row in rows), default=0.0),
        },
    )


def _drawing(scene: _Scene, indices: Sequence[int]) -> Markup:
    """Draw rows, one below the other."""
    tops, y = {}, 2.0
    for index in indices:
        if index != indices[0] and _starts_block(scene, index):
            y += GAP
        tops[index] = y
        y += LINE
    height = y + 2
    parts = [*_stripes(scene, tops)]
    parts += [_lane(scene, lane, tops, height) for lane in scene.lanes]
    parts += [part for index in indices for part in _row(scene, index, tops[index], index == indices[0])]
    parts += [part for bracket in scene.brackets for part in _bracket(bracket, tops)]
    return _svg(parts, height)


def _summary(scene: _Scene, indices: Sequence[int]) -> Markup:
    """Draw one line for folded rows: the lanes that pass through, and a square for each group inside."""
    first, last = indices[0], indices[-1]
    parts = [_lane(scene, lane, {first: 2.0}, LINE + 4.0) for lane in scene.lanes if lane.first < first]
    inner = [lane for lane in scene.lanes if first <= lane.first and lane.last <= last]
    left = max((_lane_x(scene, lane.column) for lane in scene.lanes if lane.first < first <= lane.last), default=LANES)
    size = min(13.0, (SUMS - left - 24) / max(len(inner), 1))
    for index, lane in enumerate(sorted(inner, key=lambda lane: lane.first)):
        x = left + 14 + index * size
        parts.append(
            f'<rect {_mark(scene, lane.group, "box")} x="{x:.1f}" y="6" '
            f'width="{max(size - 2, 1):.1f}" height="12" rx="2">{_title(lane.group)}</rect>'
        )
    nodes = [scene.rows[index].node for index in indices]
    for left, cost in ((MACS, "macs"), (PARAMS, "params")):
        whole = scene.found.costs[cost]
        value = sum(getattr(node, cost) for node in nodes)
        parts.append(_text(left + BAR + 6, 16, f"{value / whole * 100:.1f} %" if whole else "–", "figure"))
    return _svg(parts, LINE + 4.0)


def _folded_note(scene: _Scene, indices: Sequence[int]) -> str:
    blocks = len({scene.rows[index].block for index in indices})
    before = scene.rows[indices[0] - 1].block
    return f"{blocks} like {before}" if blocks > 1 else f"like {before}"


def _starts_block(scene: _Scene, index: int) -> bool:
    row, before = scene.rows[index], scene.rows[index - 1]
    return index > 0 and (row.block != before.block or not row.block)


def _stripes(scene: _Scene, tops: Mapping[int, float]) -> Iterator[str]:
    """Draw a background for each block, alternately a little darker."""
    blocks = list(dict.fromkeys(row.block or f"/{row.node.path}" for row in scene.rows))
    for block, run in itertools.groupby(tops, key=lambda index: scene.rows[index].block):
        indices = list(run)
        if block and blocks.index(block) % 2 == 0:
            top, bottom = tops[indices[0]] - GAP / 2, tops[indices[-1]] + LINE + GAP / 2
            yield f'<rect class="stripe" x="0" y="{top:.1f}" width="{WIDTH}" height="{bottom - top:.1f}" rx="5"/>'


def _lane(scene: _Scene, lane: Lane, tops: Mapping[int, float], height: float) -> str:
    """Draw a group's line through these rows; its thickness shows the group's width."""
    indices = list(tops)
    if lane.last < indices[0] or lane.first > indices[-1]:
        return ""
    top = tops[lane.first] + LINE / 2 if lane.first in tops else -1.0
    bottom = tops[lane.last] + LINE / 2 if lane.last in tops else height + 1.0
    size = scene.found.graph[lane.group].size
    thick = max(1.5 + (scene.pitch / 2 - 1.5) * math.sqrt(size / scene.widest), 1.0)
    x = _lane_x(scene, lane.column)
    return (
        f"<line {_mark(scene, lane.group, 'lane')} "
        f'x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke-width="{thick:.1f}">'
        f"{_title(lane.group)}</line>"
    )


def _lane_x(scene: _Scene, column: int) -> float:
    return scene.left + scene.pitch * (column + 0.5)


def _row(scene: _Scene, index: int, top: float, first: bool) -> Iterator[str]:
    row, node = scene.rows[index], scene.rows[index].node
    middle, base = top + LINE / 2, top + LINE / 2 + 4
    if row.block and (first or _starts_block(scene, index)):
        yield _text(6, base, _tail(row.block, 17), "block", row.block)
    yield _name(row, NAME if row.block else 6, base, 31 if row.block else 50)
    for lane in scene.lanes:
        if lane.group in row.roles:
            yield _dot(scene, lane, row.roles[lane.group], middle)
    pins = pin_lines(node)
    yield f'<line class="wire" x1="{MIDDLE}" x2="{MIDDLE}" y1="{top + 2:.1f}" y2="{top + LINE - 2:.1f}"/>'
    for layout, sign in ((node.input_layout, -1), (node.output_layout, 1)):
        if layout is not None:
            yield from _box(scene, layout, sign, middle, pins)
    sizes = [str(extent(layout, {})) for layout in (node.input_layout, node.output_layout) if layout is not None]
    yield _text(SIZES, base, " → ".join(sizes), "sizes")
    for left, cost in ((MACS, "macs"), (PARAMS, "params")):
        yield from _bar(left, middle, getattr(node, cost), scene.most[cost], scene.found.costs[cost])


def _name(row: Row, x: float, y: float, most: int) -> str:
    """Write a layer's name, and its kernel or class if there is room."""
    name = _tail(row.name, most)
    more = row.node.detail or row.node.kind
    kind = f'<tspan class="kind" dx="6">{escape(more)}</tspan>' if len(name) + len(more) < most else ""
    return f'<text class="name" x="{x}" y="{y:.1f}">{escape(name)}{kind}{_title(_about(row))}</text>'


def _dot(scene: _Scene, lane: Lane, role: str, y: float) -> str:
    x, radius = _lane_x(scene, lane.column), max(min(4.6, scene.pitch / 2 - 0.6), 0.8)
    mark = _mark(scene, lane.group, f"dot {role}")
    if role == "carries":
        return (
            f'<rect {mark} x="{x - radius:.1f}" y="{y - 1.2:.1f}" width="{2 * radius:.1f}" height="2.4">'
            f"{_title(f'{role} {lane.group}')}</rect>"
        )
    return f'<circle {mark} cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{_title(f"{role} {lane.group}")}</circle>'


def _box(scene: _Scene, layout: Layout, sign: int, y: float, pins: Sequence[str]) -> Iterator[str]:
    """Draw one half of a layer: consumed width to the left, produced width to the right."""
    size = extent(layout, {})
    length = max(LONGEST * math.sqrt(size / scene.widest), 2.0)
    x = MIDDLE + 1.0 if sign > 0 else MIDDLE - 1.0 - length
    for part in _flat(layout):
        share = length * extent(part, {}) / size
        yield from _piece(scene, part, (x, y - THICK / 2, share), pins)
        x += share


def _piece(scene: _Scene, part: Layout, bar: tuple[float, float, float], pins: Sequence[str]) -> Iterator[str]:
    x, y, length = bar
    names = list(dict.fromkeys(axis.group for axis in axes(part)))
    if not names:
        title = "\n".join(pins) or "cannot be pruned"
        yield f'<rect class="pin" x="{x:.1f}" y="{y:.1f}" width="{length:.1f}" height="{THICK}">{_title(title)}</rect>'
    for index, name in enumerate(names):
        thick = THICK / len(names)
        yield (
            f'<rect {_mark(scene, name, "box")} x="{x:.1f}" '
            f'y="{y + index * thick:.1f}" width="{length:.1f}" height="{thick:.1f}">{_title(name)}</rect>'
        )


def _flat(layout: Layout) -> Iterator[Layout]:
    match layout:
        case Concat(parts):
            for part in parts:
                yield from _flat(part)
        case Product() | Axis() | Fixed():
            yield layout


def _mark(scene: _Scene, group: str, kind: str) -> str:
    """Attributes that assign a shape to a group, for its colour and for the pointer."""
    return f'class="{kind} g {scene.colours[group]}" data-g="{scene.numbers[group]}"'


def _bracket(bracket: Bracket, tops: Mapping[int, float]) -> Iterator[str]:
    """Draw a bracket around a residual branch, from its start to the sum."""
    if bracket.first not in tops or bracket.last not in tops:
        return
    x, bend = SUMS + 10 + 9 * min(bracket.column, 3), SUMS
    top, bottom = tops[bracket.first] + 3, tops[bracket.last] + LINE - 1
    title = "residual sum, branch can be dropped" if bracket.droppable else "residual sum"
    kind = "sum drop" if bracket.droppable else "sum"
    yield (
        f'<path class="{kind}" d="M{bend} {top:.1f}H{x - 4}q4 0 4 4V{bottom - 4:.1f}q0 4 -4 4H{bend}">'
        f"{_title(title)}</path>"
    )
    yield f'<circle class="plus" cx="{bend}" cy="{bottom:.1f}" r="5"/>'
    yield f'<path class="plus" d="M{bend - 3} {bottom:.1f}h6m-3 -3v6"/>'
    for index in bracket.beside:
        y = tops[index] + LINE / 2
        title = _title("part of the shortcut")
        yield f'<rect class="plus" x="{x - 4}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'


def _bar(left: float, y: float, value: float, most: float, whole: float) -> Iterator[str]:
    if not whole or not value:
        return
    length = max(BAR * value / most, 0.8)
    yield f'<rect class="cost" x="{left}" y="{y - 4:.1f}" width="{length:.1f}" height="8" rx="2"/>'
    yield _text(left + BAR + 6, y + 4, f"{value / whole * 100:.1f} %", "figure")


def _about(row: Row) -> str:
    node = row.node
    kind = f"{node.kind} {node.detail}".strip()
    return "\n".join([f"{node.path or 'the network'}: {kind}" if kind else node.path, *pin_lines(node)])


def _text(x: float, y: float, text: str, kind: str, title: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}{_title(title) if title else ""}</text>'


def _tail(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _svg(parts: Iterable[str], height: float) -> Markup:
    view = f'viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="layers and groups"'
    return Markup(f"<svg {view}>{''.join(parts)}</svg>")
