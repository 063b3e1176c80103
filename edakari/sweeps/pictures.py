"""Charts of a comparison as inline SVG; colours come from the page's style, as in `edakari.report.charts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from edakari.core.budget import is_latency
from edakari.core.optional import needs
from edakari.report.axes import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Frame, axes, drawing, padded
from edakari.report.formatting import COSTS, is_share, metric, title_of
from edakari.report.formatting import cost as count
from edakari.sweeps.entries import Entry
from edakari.sweeps.table import Results, Row

with needs("report", "a report"):
    from markupsafe import Markup, escape

__all__ = ["PALETTE", "frontier", "parallel", "tones_of"]

PALETTE = 8
"""Number of colours; further values take them again."""
FEW = 12
"""Values of an axis up to which each has a name in the drawing."""
BOTTOM = 30
"""Space below the axes of the parallel coordinates, px."""
Link = Callable[[Entry], str]
"""Address of a run's report."""


def tones_of(results: Results) -> dict[str, int]:
    """Colour of each value of the first key in which rows differ."""
    first = results.keys[0] if results.keys else ""
    values = dict.fromkeys(row.settings.get(first, "") for row in results.rows)
    return {value: index % PALETTE for index, value in enumerate(values)}


def frontier(results: Results, cost: str, link: Link) -> Markup:
    """Draw the metric against a cost: a large dot for each row, a small one for each seed, a line along the front.

    Args:
        results: comparison with a metric.
        cost: cost that all rows have.
        link: address of a run's report.
    """
    tones, first = tones_of(results), results.keys[0] if results.keys else ""
    rows = [row for row in results.rows if row.metric is not None]
    relative = all(cost in row.shares for row in rows)
    xs = [_x(entry, cost, relative) for row in rows for entry in row.entries]
    ys = [entry.metrics[results.metric] for row in rows for entry in row.entries if results.metric in entry.metrics]
    frame = Frame(padded(xs, share=False), padded(ys, is_share(results.metric)))
    unit = "% of the unpruned network" if relative else "ms" if is_latency(cost) else ""
    parts = [*axes(frame, f"{COSTS.get(cost, cost)}{f', {unit}' if unit else ''}", results.metric)]
    front = sorted(_mean(row, cost, relative) for row in rows if cost in row.front)
    marks = " ".join("{:.1f},{:.1f}".format(*frame.at(*point)) for point in front)
    parts.append(f'<polyline class="trail" points="{marks}"/>')
    for row in rows:
        tone = tones[row.settings.get(first, "")]
        for entry in row.entries:
            x, y = frame.at(_x(entry, cost, relative), entry.metrics[results.metric])
            hint = f"{row.name}, seed {entry.seed}: {metric(results.metric, entry.metrics[results.metric])}"
            dot = f'<circle class="seed tone{tone}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            parts.append(f'<a href="{escape(link(entry))}">{dot}<title>{escape(hint)}</title></a>')
        x, y = frame.at(*_mean(row, cost, relative))
        ring = " front" if cost in row.front else ""
        hint = f"{row.name}: {metric(results.metric, _mean(row, cost, relative)[1])}, mean of {len(row.entries)}"
        dot = f'<circle class="mean tone{tone}{ring}" cx="{x:.1f}" cy="{y:.1f}" r="6">'
        parts.append(f"{dot}<title>{escape(hint)}</title></circle>")
    return drawing(parts, f"{title_of(results.metric)} against {COSTS.get(cost, cost)}")


def _x(entry: Entry, cost: str, relative: bool) -> float:
    share = entry.share(cost)
    return share * 100 if relative and share is not None else entry.costs[cost]


def _mean(row: Row, cost: str, relative: bool) -> tuple[float, float]:
    assert row.metric is not None
    return (row.shares[cost].mean * 100 if relative else row.costs[cost].mean), row.metric.mean


def parallel(results: Results, link: Link) -> Markup:
    """Draw one line for each run through an axis for each key, the costs and the metric.

    Args:
        results: comparison with a metric.
        link: address of a run's report.
    """
    columns = _columns(results)
    step = (2 * WIDTH - LEFT - RIGHT) / max(len(columns) - 1, 1)
    bottom, tones = HEIGHT - BOTTOM, tones_of(results)
    first = results.keys[0] if results.keys else ""
    parts: list[str] = []
    for index, (name, values) in enumerate(columns.items()):
        parts += _axis(name, values, LEFT + index * step, bottom, last=index == len(columns) - 1)
    pairs = [(row, entry) for row in results.rows for entry in row.entries]
    for number, (row, entry) in enumerate(pairs):
        points = [
            (LEFT + index * step, _height(values, number, bottom)) for index, values in enumerate(columns.values())
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        hint = f"{row.name}, seed {entry.seed}"
        line = f'<polyline class="run tone{tones[row.settings.get(first, "")]}" points="{path}"/>'
        parts.append(f'<a href="{escape(link(entry))}">{line}<title>{escape(hint)}</title></a>')
    return Markup(
        f'<svg viewBox="0 0 {2 * WIDTH} {HEIGHT}" role="img" aria-label="All runs in parallel coordinates">'
        f"{''.join(parts)}</svg>"
    )


def _columns(results: Results) -> Mapping[str, Sequence[str | float]]:
    """Values of every run by axis: texts of keys, numbers of costs and of the metric."""
    pairs = [(row, entry) for row in results.rows for entry in row.entries]
    found: dict[str, Sequence[str | float]] = {key: [row.settings[key] for row, _ in pairs] for key in results.keys}
    found["seed"] = [str(entry.seed) for _, entry in pairs]
    found |= {COSTS.get(cost, cost): [entry.costs[cost] for _, entry in pairs] for cost in results.costs}
    scale = 100 if is_share(results.metric) else 1
    title = f"{title_of(results.metric)}{', %' if scale == 100 else ''}"
    return {**found, title: [entry.metrics.get(results.metric, 0.0) * scale for _, entry in pairs]}


def _height(values: Sequence[str | float], number: int, bottom: float) -> float:
    value = values[number]
    if isinstance(value, str):
        names = list(dict.fromkeys(values))
        share = names.index(value) / max(len(names) - 1, 1) if len(names) > 1 else 0.5
    else:
        numbers = [float(each) for each in values]
        low, high = min(numbers), max(numbers)
        share = (value - low) / (high - low) if high > low else 0.5
    return bottom - share * (bottom - TOP - 16)


def _axis(name: str, values: Sequence[str | float], x: float, bottom: float, *, last: bool) -> Iterator[str]:
    yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP + 16}" y2="{bottom}"/>'
    yield f'<text class="title" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(name)}</text>'
    texts = [value for value in dict.fromkeys(values) if isinstance(value, str)]
    shown = [(text, values.index(text)) for text in texts] if len(texts) <= FEW else []
    if not texts:
        numbers = [float(value) for value in values]
        ends = {numbers.index(min(numbers)), numbers.index(max(numbers))}
        shown = [(count(numbers[index]) if max(numbers) >= 1000 else f"{numbers[index]:.4g}", index) for index in ends]
    for text, index in shown:
        y = _height(values, index, bottom)
        at, anchor = (x - 5, "end") if last else (x + 5, "start")
        yield f'<text class="tick" x="{at:.1f}" y="{y - 4:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
