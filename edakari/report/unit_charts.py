"""Charts of the units that a search keeps: by map and kernel size, and by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edakari.core.optional import needs
from edakari.report.axes import BOTTOM, LEFT, RIGHT, TOP, WIDTH, drawing
from edakari.report.series import PERCENT, TONES, Series, lines

with needs("report", "a report"):
    from markupsafe import Markup, escape

__all__ = ["by_group", "by_kernel"]


def by_kernel(search: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Draw the units that are left in the maps of each size, one line for each kernel size.

    In the supernet of SuperTickets, each size of the maps is a branch.

    Args:
        search: the search in the report from `collect`.

    Returns:
        Title and picture of each size; none unless the units have at least two kernel sizes.
    """
    placed = [group for group in search["groups"] if group["kernel"] and group["map"]]
    kernels = sorted({tuple(group["kernel"]) for group in placed})
    if len(kernels) < 2 or not search["events"]:
        return []
    epochs = [0, *(event["epoch"] for event in search["events"])]
    charts = []
    for size in sorted({tuple(group["map"]) for group in placed}, reverse=True):
        series, texts = [], []
        for index, kernel in enumerate(kernels):
            found = [group for group in placed if (tuple(group["map"]), tuple(group["kernel"])) == (size, kernel)]
            if found:
                units = [
                    sum(group["size"] for group in found),
                    *map(sum, zip(*(g["units"] for g in found), strict=True)),
                ]
                points = [(epoch, 100 * left / units[0]) for epoch, left in zip(epochs, units, strict=True)]
                series.append(Series(_times(kernel), points, TONES[index % len(TONES)]))
                texts.append(f"{units[-1]} of {units[0]} units with kernels of {_times(kernel)}")
        title = f"Maps of {_times(size)}"
        charts.append(
            (
                title,
                lines(series, "units left, %", f"{title}: {'; '.join(texts)} are left", last=epochs[-1], span=PERCENT),
            )
        )
    return charts


def by_group(search: Mapping[str, Any]) -> Markup:
    """Draw the fraction of units that each group has after each event as the strength of a colour.

    Args:
        search: the search in the report from `collect`, with at least one event.
    """
    groups, epochs = search["groups"], [0, *(event["epoch"] for event in search["events"])]
    step = min(14.0, max(240 / len(groups), 3.0))
    bottom = TOP + step * len(groups)
    scale = (WIDTH - LEFT - RIGHT) / (epochs[-1] * (1 + 1 / len(epochs)))
    parts = []
    for index, group in enumerate(groups):
        y, units = TOP + index * step, [group["size"], *group["units"]]
        parts.append(f"<g><title>{escape(group['name'])}: {units[-1]} of {units[0]} units</title>")
        parts.append(_bar("track", LEFT, y, WIDTH - LEFT - RIGHT, step, 1))
        for first, last in _runs(units):
            start = LEFT + epochs[first] * scale
            end = LEFT + epochs[last] * scale if last < len(epochs) else WIDTH - RIGHT
            parts.append(_bar(TONES[0], start, y, end - start, step, units[first] / units[0]))
        parts.append("</g>")
    for epoch in epochs[:: max(len(epochs) // 8, 1)]:
        x = LEFT + epoch * scale
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{epoch}</text>')
    centre, middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
    parts.append(f'<text class="title" x="{centre}" y="{bottom + BOTTOM - 8:.1f}" text-anchor="middle">epoch</text>')
    turned = f'transform="translate(15 {middle:.1f}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="title" {turned}>groups ({len(groups)})</text>')
    gone = sum(group["units"][-1] == 0 for group in groups)
    left, every = (sum(values) for values in ((g["units"][-1] for g in groups), (g["size"] for g in groups)))
    text = f"Units of {len(groups)} groups over the epochs: {left} of {every} are left; {gone} groups have none"
    return drawing(parts, text, bottom + BOTTOM)


def _bar(tone: str, x: float, y: float, wide: float, step: float, share: float) -> str:
    return (
        f'<rect class="fill {tone}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{max(step - 1, 2):.1f}" '
        f'fill-opacity="{share:.2f}"/>'
    )


def _runs(units: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First index, and the one after the last, of each run of equal numbers above 0."""
    first = 0
    for index in range(1, len(units) + 1):
        if index == len(units) or units[index] != units[first]:
            if units[first]:
                yield first, index
            first = index


def _times(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))
