"""Charts of several series over the epochs, as inline SVG."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Iterator, Sequence

from edakari.core.optional import needs
from edakari.report.axes import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Frame, axes, drawing, padded
from edakari.report.formatting import is_share

with needs("report", "a report"):
    from markupsafe import Markup, escape

__all__ = ["PERCENT", "TONES", "Series", "lines", "pairs", "ridges"]

TONES = ("finetuned", "pruned", "dense", "fourth", "fifth")
"""Colour classes of series, in order."""
PERCENT = (0.0, 106.0)
"""Range of an axis of percentages, with room above."""
ROW, OVERLAP = 20, 1.6
"""Distance of two histograms, px, and height of the highest one as a multiple of it."""


@dc.dataclass(frozen=True)
class Series:
    """One line of a chart.

    Args:
        name: its name.
        points: pairs of epoch and value, in order.
        tone: its colour class.
    """

    name: str
    points: Sequence[tuple[float, float]]
    tone: str


def lines(
    series: Sequence[Series], up: str, text: str, *, last: float = 0, span: tuple[float, float] | None = None
) -> Markup:
    """Draw lines over the epochs, with dots and a legend.

    Args:
        series: the lines; each has at least one point.
        up: title of the y axis, or name of a metric.
        text: what stands for the picture where it cannot be seen.
        last: epoch up to which the x axis goes at least.
        span: range of the y axis; None fits it to the values.
    """
    heights = [value for each in series for _, value in each.points]
    epochs = [epoch for each in series for epoch, _ in each.points]
    frame = Frame((0.0, max(last, *epochs, 1.0)), span or padded(heights, is_share(up)))
    parts = [*axes(frame, "epoch", up, whole=True)]
    for each in series:
        indices = [frame.at(*point) for point in each.points]
        parts.append(
            f'<polyline class="line {each.tone}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in indices)}"/>'
        )
        if len(indices) <= 40:
            for (epoch, value), (x, y) in zip(each.points, indices, strict=True):
                hint = f"{each.name}, epoch {epoch:g}: {value:.4g}"
                dot = f'<circle class="dot {each.tone}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
                parts.append(f"{dot}<title>{escape(hint)}</title></circle>")
    return drawing([*parts, *_legend([(each.name, each.tone) for each in series])], text)


def pairs(points: Sequence[tuple[float, float, float]], names: tuple[str, str], up: str, text: str) -> Markup:
    """Draw two numbers at each event as bars side by side.

    Args:
        points: epoch and both numbers, which are at least 0.
        names: names of both numbers.
        up: title of the y axis.
        text: what stands for the picture where it cannot be seen.
    """
    most = max(max(one, two) for _, one, two in points)
    frame = Frame((0.0, max(epoch for epoch, _, _ in points) * 1.06), (0.0, 1.25 * max(most, 1.0)))
    parts = [*axes(frame, "epoch", up, whole=True)]
    wide = max(min((WIDTH - LEFT - RIGHT) / (3 * len(points)), 14), 1.5)
    tones = TONES[1], TONES[0]
    for epoch, *values in points:
        for side, (name, value, tone) in enumerate(zip(names, values, tones, strict=True)):
            (x, y), (_, zero) = frame.at(epoch, value), frame.at(epoch, 0)
            parts.append(
                f'<rect class="fill {tone}" x="{x + (side - 1) * wide:.1f}" y="{y:.1f}" width="{wide:.1f}" '
                f'height="{zero - y:.1f}"><title>epoch {epoch:g}: {value:,.0f} {escape(name)}</title></rect>'
            )
    return drawing([*parts, *_legend(tuple(zip(names, tones, strict=True)))], text)


def ridges(rows: Sequence[tuple[str, Sequence[int]]], edges: Sequence[float], threshold: float, text: str) -> Markup:
    """Draw one histogram for each event above each other, on a logarithmic axis.

    Args:
        rows: name and counts of each histogram, in order.
        edges: edges of its bins, rising, one more than counts.
        threshold: value to mark.
        text: what stands for the picture where it cannot be seen.
    """
    step = min(ROW, 600 / len(rows))
    first, height = TOP + step * (OVERLAP - 1), step * OVERLAP
    bottom = first + step * len(rows)
    low, high = math.log10(edges[0]), math.log10(edges[-1])

    def across(value: float) -> float:
        clipped = min(max(math.log10(value), low), high) if value > 0 else low
        return LEFT + (clipped - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = list(_powers(across, low, high, bottom))
    most = max(max(max(counts, default=0) for _, counts in rows), 1)
    every = math.ceil(15 / step)
    for index, (name, counts) in enumerate(rows):
        base = first + step * (index + 1)
        tops = [base - height * count / most for count in counts]
        path = "".join(
            f"L{across(start):.1f},{y:.1f}L{across(end):.1f},{y:.1f}"
            for start, end, y in zip(edges[:-1], edges[1:], tops, strict=True)
        )
        parts.append(
            f'<path class="ridge" d="M{LEFT},{base:.1f}{path}L{WIDTH - RIGHT},{base:.1f}Z">'
            f"<title>{escape(name)}: {sum(counts):,} gates</title></path>"
        )
        if index % every == 0:
            parts.append(f'<text class="tick" x="{LEFT - 8}" y="{base:.1f}" text-anchor="end">{escape(name)}</text>')
    turned = f'transform="translate(15 {(first + bottom) / 2:.1f}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="title" {turned}>epoch</text>')
    x = across(threshold)
    parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom:.1f}"/>')
    parts.append(f'<text class="note" x="{x + 5:.1f}" y="{TOP - 4}">threshold {threshold:g}</text>')
    return drawing(parts, text, bottom + BOTTOM)


def _powers(across: Callable[[float], float], low: float, high: float, bottom: float) -> Iterator[str]:
    for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1):
        x = across(10.0**power)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom:.1f}"/>'
        label = f"{10.0**power:g}" if -3 <= power <= 3 else f"1e{power}"
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{label}</text>'
    centre = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="title" x="{centre}" y="{bottom + BOTTOM - 8:.1f}" text-anchor="middle">size of the gate</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>'


def _legend(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Names of series with their colours, in a row at the top."""
    x = LEFT + 4.0
    for name, tone in entries:
        yield f'<circle class="dot {tone}" cx="{x:.1f}" cy="9" r="5"/>'
        yield f'<text class="note" x="{x + 9:.1f}" y="13">{escape(name)}</text>'
        x += 24 + 6.6 * len(name)
