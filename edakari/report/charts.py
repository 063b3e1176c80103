"""Charts as inline SVG; colours come from the page's style, so that they follow its light and dark themes."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

from edakari.core.optional import needs
from edakari.report.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Frame, axes, drawing, padded
from edakari.report.formatting import is_share, metric, title_of

with needs("report", "a report"):
    from markupsafe import Markup, escape

__all__ = ["Point", "curve", "scatter", "stations", "tradeoffs"]

ENDS = ("end", "start", "middle")
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, px."""


@dc.dataclass(frozen=True)
class Point:
    """A network in a trade-off chart: x, y, its name, and its colour class."""

    x: float
    y: float
    name: str
    tone: str


def tradeoffs(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the content of the trade-off charts: title, unit, points and budget limit of each x quantity."""
    name = report["metric"]
    networks = [network for network in report["networks"] if name in network["metrics"]]
    if len(networks) < 2:
        return []
    dense = networks[0]
    charts = []
    for cost, title in (("macs", "MACs"), ("params", "parameters")):
        if cost == "macs" or cost in report["limits"]:
            whole = dense["costs"][cost]
            points = [_point(network, network["costs"][cost] / whole * 100, name) for network in networks]
            limit = report["limits"].get(cost)
            charts.append(
                {"title": f"{title}, % of dense", "points": points, "limit": limit / whole * 100 if limit else None}
            )
    timed = report["latency"]
    for runtime in sorted(dense["latency"], key=lambda name: not timed or name != timed["runtime"]):
        last = networks[-1]["latency"].get(runtime, {}).get("median_ms")
        points = [
            _point(network, network["latency"].get(runtime, {}).get("median_ms", last), name) for network in networks
        ]
        charts.append({"title": f"latency in {runtime}, ms", "points": points, "limit": _limit_ms(report, runtime)})
    return charts


def _limit_ms(report: Mapping[str, Any], runtime: str) -> float | None:
    """The latency limit at the machine's speed when this runtime was measured."""
    timed, here = report["latency"], report["measured"]
    asked = timed and (timed["runtime"], timed["batch"], timed["settings"]["threads"])
    if asked != (runtime, here["batch"], here["threads"]):
        return None
    dense_ms: float = report["networks"][0]["latency"][runtime]["median_ms"]
    limit_ms: float = timed["limit_ms"] / timed["dense"]["median_ms"] * dense_ms
    return limit_ms


def scatter(points: Sequence[Point], across: str, up: str, limit: float | None) -> Markup:
    """Draw networks by cost and quality, connected in the order in which they were made.

    Args:
        points: networks in this order.
        across: title of the x axis, whose range starts at 0.
        up: name of the metric.
        limit: x of the budget, or None.
    """
    xs = [point.x for point in points] + ([limit] if limit else [])
    frame = Frame((0.0, max(xs) * 1.08), padded([point.y for point in points], is_share(up)))
    parts = [*axes(frame, across, up)]
    if limit:
        x, _ = frame.at(limit, frame.y[0])
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="note" x="{x - 6:.1f}" y="{HEIGHT - BOTTOM - 8}" text-anchor="end">budget</text>'
        )
    indices = [frame.at(point.x, point.y) for point in points]
    parts.append(f'<polyline class="trail" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in indices)}"/>')
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in indices]
    for point, (x, y) in zip(points, indices, strict=True):
        parts.append(
            f'<circle class="dot {point.tone}" cx="{x:.1f}" cy="{y:.1f}" r="6.5"><title>{escape(point.name)} '
            f"{metric(up, point.y)}, {escape(across)}: {point.x:.4g}</title></circle>"
        )
        parts.append(_label(point.name, metric(up, point.y), x, y, taken))
    return drawing(parts, f"{title_of(up)} against {across}")


def curve(values: Sequence[tuple[float, float]], name: str, tone: str, level: tuple[str, float] | None) -> Markup:
    """Draw a metric over the epochs.

    Args:
        values: pairs of epoch and value.
        name: name of the metric.
        tone: colour class.
        level: name and height of a line to compare with, or None.
    """
    heights = [value for _, value in values] + ([level[1]] if level else [])
    first, last = min(epoch for epoch, _ in values), max(epoch for epoch, _ in values)
    frame = Frame((first, max(last, first + 1)), padded(heights, is_share(name)))
    parts = [*axes(frame, "epoch", name, whole=True)]
    if level:
        _, y = frame.at(frame.x[0], level[1])
        parts.append(
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="note" x="{LEFT + 6}" y="{y - 6:.1f}">{escape(level[0])} {metric(name, level[1])}</text>'
        )
    indices = [frame.at(epoch, value) for epoch, value in values]
    parts.append(f'<polyline class="line {tone}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in indices)}"/>')
    for (epoch, value), (x, y) in zip(values, indices, strict=True):
        if len(values) <= 40:
            parts.append(
                f'<circle class="dot {tone}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
                f"<title>epoch {epoch:g}: {metric(name, value)}</title></circle>"
            )
    return drawing(parts, f"{title_of(name)} over the epochs")


def stations(points: Sequence[Point], across: str, up: str, *, joined: bool) -> Markup:
    """Draw small dots with their names as hints, optionally connected in order.

    Args:
        points: the dots.
        across: title of the x axis.
        up: title of the y axis.
        joined: whether a line connects them.
    """
    xs, ys = [point.x for point in points], [point.y for point in points]
    frame = Frame(padded(xs, share=False), padded(ys, share=False))
    parts = [*axes(frame, across, up)]
    indices = [frame.at(point.x, point.y) for point in points]
    if joined:
        parts.append(f'<polyline class="trail" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in indices)}"/>')
    for point, (x, y) in zip(points, indices, strict=True):
        dot = f'<circle class="dot {point.tone}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
        parts.append(f"{dot}<title>{escape(point.name)}</title></circle>")
    return drawing(parts, f"{up} against {across}")


def _point(network: Mapping[str, Any], x: float, name: str) -> Point:
    return Point(x, network["metrics"][name], network["name"], network["name"].replace("-", ""))


def _label(name: str, figure: str, x: float, y: float, taken: list[Box]) -> str:
    """Write two lines next to a point at the first free position, and reserve their box."""
    wide = 7.2 * max(len(name), len(figure))
    beside = [("start", x + 11, y - 4), ("end", x - 11, y - 4)]
    above = [(end, x + 6 if end == "start" else x - 6 if end == "end" else x, y - 27) for end in ENDS]
    below = [(end, across, y + 24) for end, across, _ in above]
    boxes = [_box(end, across, up, wide) for end, across, up in (*beside, *above, *below)]
    free = [index for index, box in enumerate(boxes) if _inside(box) and not any(_meet(box, other) for other in taken)]
    chosen = free[0] if free else 0
    end, across, up = (*beside, *above, *below)[chosen]
    taken.append(boxes[chosen])
    return (
        f'<text class="label" x="{across:.1f}" y="{up:.1f}" text-anchor="{end}">{escape(name)}'
        f'<tspan x="{across:.1f}" dy="15">{figure}</tspan></text>'
    )


def _box(end: str, across: float, up: float, wide: float) -> Box:
    left = across - {"start": 0.0, "middle": wide / 2, "end": wide}[end]
    return left, up - 12, left + wide, up + 18


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[1] >= 2 and box[2] <= WIDTH - 2 and box[3] <= HEIGHT - BOTTOM


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
