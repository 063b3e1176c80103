"""Charts as inline SVG; colours come from the page's style, so that they follow its light and dark themes."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

from edakari.core.optional import needs
from edakari.report.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Frame, axes, drawing, padded
from edakari.report.formatting import COSTS, is_share, metric, title_of
from edakari.report.speeds import speeds

with needs("report", "a report"):
    from markupsafe import Markup, escape

__all__ = ["Point", "Tradeoff", "curve", "scatter", "stations", "tradeoffs"]

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


@dc.dataclass(frozen=True)
class Tradeoff:
    """The content of a trade-off chart.

    Args:
        title: title of the x axis.
        points: networks of the run in the order in which they were made.
        limit: x of the budget, or None.
        others: finished networks of other runs of the same sweep.
    """

    title: str
    points: Sequence[Point]
    limit: float | None
    others: Sequence[Point] = ()

    @property
    def sunk(self) -> Sequence[Point]:
        """Networks so far below the others, as those before a fine-tuning, that the y axis does not reach them."""
        if len(self.points) < 3:
            return ()
        ends = [self.points[0].y, self.points[-1].y, *(point.y for point in self.others)]
        low = min(ends) - max(max(ends) - min(ends), 0.02 * abs(max(ends)))
        return [point for point in self.points[1:-1] if point.y < low]


def tradeoffs(report: Mapping[str, Any]) -> list[Tradeoff]:
    """Return the trade-off charts: one for each counted cost of the budget, and one for the latency.

    Args:
        report: the report from `collect`.
    """
    name = report["metric"]
    networks = [network for network in report["networks"] if name in network["metrics"]]
    if len(networks) < 2:
        return []
    dense, charts = networks[0], []
    for cost in [cost for cost in report["limits"] if cost in COSTS] or ["macs"]:
        whole, limit = dense["costs"][cost], report["limits"].get(cost)
        points = [_point(network, network["costs"][cost] / whole * 100, name) for network in networks]
        title = f"{COSTS[cost]}, % of dense"
        charts.append(Tradeoff(title, points, limit / whole * 100 if limit else None, _others(report, cost, 100.0)))
    for speed in speeds(report)[: max(1, len(report["latencies"]))]:
        before, after = speed.dense["median_ms"], speed.pruned["median_ms"]
        points = [_point(network, before if network is dense else after, name) for network in networks]
        limit = speed.asked["limit_ms"] if speed.asked else None
        # other runs were timed at another speed of the machine
        charts.append(Tradeoff(f"latency in {speed.title}, ms", points, limit, _others(report, speed.cost, before)))
    return charts


def _others(report: Mapping[str, Any], cost: str, whole: float) -> list[Point]:
    """Finished networks of other runs of the sweep, scaled to a dense network that costs `whole`."""
    points = []
    for run in report.get("sweep", ()):
        with contextlib.suppress(KeyError, ZeroDivisionError):
            share = run["costs"][cost] / run["dense_costs"][cost]
            points.append(Point(share * whole, run["metrics"][report["metric"]], run["name"], "other"))
    return points


def scatter(chart: Tradeoff, up: str) -> Markup:
    """Draw networks by cost and quality, connected in the order in which they were made.

    The axes show what matters: the dense and the finished network. A network far below them is marked at the lower
    edge.

    Args:
        chart: content of the chart.
        up: name of the metric.
    """
    sunk, points, across = chart.sunk, chart.points, chart.title
    shown = [point for point in (*points, *chart.others) if point not in sunk]
    xs = [point.x for point in (*points, *chart.others)] + ([chart.limit] if chart.limit else [])
    frame = Frame((0.0, max(xs) * 1.08), padded([point.y for point in shown], is_share(up)))
    parts = [*axes(frame, across, up)]
    if chart.limit:
        x, _ = frame.at(chart.limit, frame.y[0])
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="note" x="{x - 6:.1f}" y="{TOP + 10}" text-anchor="end">budget</text>'
        )
    parts += [_dot(point, *frame.at(point.x, point.y), across, up, 4.5) for point in chart.others]
    parts += _frontier(frame, [*chart.others, points[-1]]) if chart.others else []
    indices = [frame.at(point.x, max(point.y, frame.y[0])) for point in points]
    parts.append(f'<polyline class="trail" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in indices)}"/>')
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in indices]
    for point, (x, y) in zip(points, indices, strict=True):
        if point in sunk:
            parts.append(
                f'<path class="dot {point.tone}" d="M{x - 7:.1f},{y - 12:.1f}h14l-7,11z"><title>{escape(point.name)} '
                f"{metric(up, point.y)}, below this axis</title></path>"
            )
        else:
            parts.append(_dot(point, x, y, across, up, 6.5))
        parts.append(_label(point.name, metric(up, point.y) + (" ↓" if point in sunk else ""), x, y, taken))
    return drawing(parts, f"{title_of(up)} against {across}")


def _dot(point: Point, x: float, y: float, across: str, up: str, radius: float) -> str:
    return (
        f'<circle class="dot {point.tone}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(point.name)} '
        f"{metric(up, point.y)}, {escape(across)}: {point.x:.4g}</title></circle>"
    )


def _frontier(frame: Frame, points: Sequence[Point]) -> list[str]:
    """A line through the networks than which none is both cheaper and better."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    places = " ".join("{:.1f},{:.1f}".format(*frame.at(point.x, point.y)) for point in best)
    return [f'<polyline class="frontier" points="{places}"><title>best runs of the sweep</title></polyline>']


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
