"""Axes and frame of a chart as inline SVG; colours come from the page's style, as in `edakari.report.charts`."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterable, Sequence

from edakari.core.optional import needs
from edakari.report.formatting import cost, is_share, title_of

with needs("report", "a report"):
    from markupsafe import Markup, escape

__all__ = ["BOTTOM", "HEIGHT", "LEFT", "RIGHT", "TOP", "WIDTH", "Frame", "axes", "drawing", "padded"]

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 18, 46


@dc.dataclass(frozen=True)
class Frame:
    """Ranges of both axes, and their mapping to the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the position of a value in px."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def padded(values: Sequence[float], share: bool) -> tuple[float, float]:
    """Return the range of an axis for values, with room on both sides.

    Args:
        values: values of all points.
        share: whether they are fractions, which are at most 1.
    """
    low, high = min(values), max(values)
    pad = max((high - low) * 0.18, abs(high) * 0.01, 1e-9)
    top = min(high + pad, 1.0 + 0.04 * (high - low)) if share and high <= 1 else high + pad
    return (max(low - pad, 0.0) if low >= 0 else low - pad), max(top, high + 1e-9)


def axes(frame: Frame, across: str, up: str, *, whole: bool = False) -> Iterable[str]:
    """Draw both axes with their ticks and titles.

    Args:
        frame: ranges of the axes.
        across: title of the x axis.
        up: title of the y axis, or name of a metric.
        whole: whether ticks of the x axis are integers.
    """
    share = is_share(up)
    for value in _ticks(*frame.y, scale=100 if share else 1):
        _, y = frame.at(frame.x[0], value)
        text = f"{value * 100:.3g}" if share else cost(value) if value >= 1e3 else f"{value:.3g}"
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    for value in _ticks(*frame.x, whole=whole):
        x, _ = frame.at(value, frame.y[0])
        yield f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:.3g}</text>'
    middle, centre = (TOP + HEIGHT - BOTTOM) / 2, (LEFT + WIDTH - RIGHT) / 2
    index = f'transform="translate(12 {middle}) rotate(-90)" text-anchor="middle"'
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'
    yield f'<text class="title" x="{centre}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>'
    title = f"{title_of(up)}, %" if share else title_of(up)
    yield f'<text class="title" {index}>{escape(title)}</text>'


def _ticks(low: float, high: float, *, scale: float = 1, whole: bool = False) -> list[float]:
    low, high = low * scale, high * scale
    rough = (high - low) / 6.5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [index * step / scale for index in range(first, math.floor(high / step + 1e-9) + 1)]


def drawing(parts: Iterable[str], text: str, height: float = HEIGHT) -> Markup:
    """Put the parts of a chart together.

    Args:
        parts: its elements.
        text: what stands for the picture where it cannot be seen.
        height: height, px.
    """
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(text)}">{"".join(parts)}</svg>'
    )
