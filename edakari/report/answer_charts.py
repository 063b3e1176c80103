"""Charts of what both networks answer: figures by class, confusions, and precision by recall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edakari.core.optional import needs
from edakari.report.axes import LEFT, RIGHT, WIDTH, Frame, axes, drawing
from edakari.report.formatting import metric_change

with needs("report", "a report"):
    from markupsafe import Markup, escape

__all__ = ["answer_charts", "answers_note"]

FIGURES = {"accuracy": "accuracy", "iou": "intersection over union", "ap": "average precision"}
SHOWN = 16
"""Largest number of classes in the chart."""
ROW, NAMES = 22, 130
"""Height of a row, and width of the names of classes, px."""
Values = Mapping[str, Any]


def answers_note(found: Values) -> str:
    """Say in a sentence how the answers differ.

    Args:
        found: result of the comparison, as plain values.
    """
    images, outcomes = found["images"], found["outcomes"]
    if not outcomes:
        return f"Both networks on the same {images:,} validation images."
    return (
        f"Of {images:,} validation images, both networks classify {outcomes['both']:,} correctly, only the unpruned "
        f"one {outcomes['only_dense']:,}, only the pruned one {outcomes['only_pruned']:,}, and neither "
        f"{outcomes['neither']:,}."
    )


def answer_charts(found: Values) -> list[tuple[str, Markup]]:
    """Return the charts with their titles.

    Args:
        found: result of the comparison, as plain values.
    """
    charts = []
    if found["classes"]:
        shown = _extremes(found["classes"])
        of = f" ({len(shown)} of {found['class_count']})" if len(shown) < found["class_count"] else ""
        charts.append((f"{FIGURES[found['figure']].capitalize()} by class, %{of}", _by_class(shown)))
    names = list(dict.fromkeys(each["label"] for each in found["confusions"]))
    if names and len(found["confusions"]) == len(names) ** 2:
        charts.append(
            ("Images more or fewer, labels in rows and answers in columns", _matrix(names, found["confusions"]))
        )
    if found["dense_precision"] and found["pruned_precision"]:
        charts.append(("Precision by recall at IoU 0.5", _precision(found)))
    return charts


def _extremes(classes: Sequence[Values]) -> list[Values]:
    """The classes with the largest losses, and with the largest gains; they are in order of the change."""
    if len(classes) <= SHOWN:
        return list(classes)
    return [*classes[: SHOWN * 3 // 4], *classes[-(SHOWN // 4) :]]


def _by_class(classes: Sequence[Values]) -> Markup:
    """Both figures of each class, joined by a line."""
    low = min(min(each["dense"], each["pruned"]) for each in classes)
    start = max(0.0, (int(low * 10) - 1) / 10)
    left, height = NAMES, ROW * len(classes) + 34

    def at(value: float) -> float:
        return left + (value - start) / (1 - start) * (WIDTH - left - 104)

    parts = []
    for tick in range(round(start * 10), 11, 2 if start < 0.5 else 1):
        x = at(tick / 10)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 28}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{tick * 10}</text>')
    for row, each in enumerate(classes):
        y, before, after = 16 + ROW * row, at(each["dense"]), at(each["pruned"])
        name = each["name"] if len(each["name"]) <= 18 else f"{each['name'][:17]}…"
        change = metric_change("accuracy", each["dense"], each["pruned"])
        hint = f"{each['name']} ({each['count']:,}): {each['dense'] * 100:.1f} % to {each['pruned'] * 100:.1f} %"
        parts.append(
            f'<text class="note" x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<line class="axis" x1="{before:.1f}" x2="{after:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot dense" cx="{before:.1f}" cy="{y}" r="5"/>'
            f'<circle class="dot finetuned" cx="{after:.1f}" cy="{y}" r="5"><title>{escape(hint)}</title></circle>'
            f'<text class="note" x="{WIDTH - 4}" y="{y + 4}" text-anchor="end">{change}</text>'
        )
    worst = min(classes, key=lambda each: float(each["pruned"] - each["dense"]))
    change = metric_change("accuracy", worst["dense"], worst["pruned"])
    return drawing(parts, f"Figures of {len(classes)} classes; {worst['name']} changes most: {change}", height)


def _matrix(names: Sequence[str], confusions: Sequence[Values]) -> Markup:
    """How many more or fewer images of each label get each answer."""
    side = min(26.0, (WIDTH - NAMES - RIGHT) / len(names))
    top = 64.0
    most = max([abs(each["pruned"] - each["dense"]) for each in confusions] + [1])
    parts = []
    for index, name in enumerate(names):
        short, x = escape(name if len(name) <= 16 else f"{name[:15]}…"), NAMES + side * (index + 0.5)
        y = top + side * (index + 0.5)
        parts.append(f'<text class="tick" x="{NAMES - 8}" y="{y + 4:.1f}" text-anchor="end">{short}</text>')
        turned = f'transform="translate({x + 4:.1f} {top - 6:.0f}) rotate(-60)"'
        parts.append(f'<text class="tick" {turned}>{short}</text>')
    for index, each in enumerate(confusions):
        row, column = divmod(index, len(names))
        change = each["pruned"] - each["dense"]
        tone = "none" if not change else "better" if (change > 0) == (row == column) else "worse"
        hint = f"{each['label']} as {each['answer']}: {each['dense']} to {each['pruned']} images"
        parts.append(
            f'<rect class="cell {tone}" x="{NAMES + side * column:.1f}" y="{top + side * row:.1f}" '
            f'width="{side - 1:.1f}" height="{side - 1:.1f}" fill-opacity="{abs(change) / most:.2f}">'
            f"<title>{escape(hint)}</title></rect>"
        )
        if change and side >= 18:
            text = f"{change:+d}".replace("-", "−")
            parts.append(
                f'<text class="value" x="{NAMES + side * (column + 0.5) - 0.5:.1f}" '
                f'y="{top + side * (row + 0.5) + 3:.1f}" text-anchor="middle">{text}</text>'
            )
    return drawing(parts, "Labels in rows, answers in columns: images more or fewer", top + side * len(names) + 6)


def _precision(found: Values) -> Markup:
    frame = Frame((0.0, 1.0), (0.0, 1.04))
    parts = [*axes(frame, "recall", "precision")]
    series = (("dense", found["dense_precision"]), ("finetuned", found["pruned_precision"]))
    for tone, values in series:
        steps = (frame.at(index / (len(values) - 1), value) for index, value in enumerate(values))
        parts.append(f'<polyline class="line {tone}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in steps)}"/>')
    parts += _names(series)
    areas = [sum(values) / len(values) for _, values in series]
    return drawing(
        parts,
        f"Precision by recall: the area is {areas[0]:.3f} for the unpruned and {areas[1]:.3f} for the pruned network",
    )


def _names(series: Sequence[tuple[str, Any]]) -> Iterator[str]:
    for index, (tone, _) in enumerate(series):
        x = LEFT + 12 + 90 * index
        yield f'<circle class="dot {tone}" cx="{x}" cy="9" r="5"/>'
        yield f'<text class="note" x="{x + 9}" y="13">{"unpruned" if tone == "dense" else "pruned"}</text>'
