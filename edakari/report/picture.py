"""The trade-off and the widths as a PNG, for slides and README files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edakari.core.files import replacing
from edakari.core.optional import needs
from edakari.report.charts import Tradeoff, tradeoffs
from edakari.report.formatting import is_share, metric, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

TONES = {"dense": "#64748b", "pruned": "#d97706", "finetuned": "#0f766e"}


def draw(report: Mapping[str, Any], path: str | Path) -> Path:
    """Write the picture.

    Args:
        report: the report from `collect`.
        path: path of the PNG file to write.
    """
    with needs("report", "drawing a picture"):
        # most commands draw nothing, and matplotlib takes long to import
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    charts = tradeoffs(report)[:2]
    figure = Figure(figsize=(4.6 * (len(charts) + 1) + 1, 4.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(charts) + 1, squeeze=False)[0]
    for ax, chart in zip(axes, charts, strict=False):
        _tradeoff(ax, chart, report["metric"])
    if report["tokens"] and all(group["kept"] == group["size"] for group in report["groups"]):
        _tokens(axes[-1], report["tokens"])
    else:
        _widths(axes[-1], report["groups"])
    figure.suptitle(f"{report['model']}: {report['method']}, {report['budget']}", fontsize=12, fontweight="bold")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "edakari"})
    return Path(path)


def _tradeoff(ax: Axes, chart: Tradeoff, name: str) -> None:
    scale = 100 if is_share(name) else 1
    sunk, points = chart.sunk, chart.points
    low = min(point.y for point in points if point not in sunk)
    floor = low - max(0.4 * (max(point.y for point in points) - low), 0.005)
    heights = [(floor if point in sunk else point.y) * scale for point in points]
    ax.plot([point.x for point in points], heights, color="#cbd5e1", zorder=1)
    if chart.others:
        across, up = [point.x for point in chart.others], [point.y * scale for point in chart.others]
        ax.scatter(across, up, s=18, color="#cbd5e1", zorder=1)
    for point, height in zip(points, heights, strict=True):
        marker = "v" if point in sunk else "o"
        ax.scatter(point.x, height, s=60, marker=marker, color=TONES.get(point.tone, "#334155"), zorder=2)
        right = point.x > 0.6 * max(other.x for other in points)
        ax.annotate(
            f"{point.name}\n{metric(name, point.y)}",
            (point.x, height),
            xytext=(-8 if right else 8, 4),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=9,
        )
    if chart.limit:
        ax.axvline(chart.limit, color="#94a3b8", linestyle="--", linewidth=1)
    ax.set_xlim(0, max(point.x for point in (*points, *chart.others)) * 1.08)
    ax.margins(y=0.2)
    ax.set_xlabel(chart.title)
    ax.set_ylabel(f"{title_of(name)}, %" if is_share(name) else title_of(name))
    _plain(ax)


def _widths(ax: Axes, groups: Sequence[Mapping[str, Any]]) -> None:
    _shares(ax, [group["kept"] / group["size"] for group in groups])
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel(f"group, in order of the network ({len(groups)})")
    ax.set_ylabel("width kept, %")


def _tokens(ax: Axes, tokens: Sequence[Mapping[str, Any]]) -> None:
    _shares(ax, [each["kept"] / each["of"] for each in tokens])
    ax.set_xticks(range(len(tokens)), [each["block"] for each in tokens], rotation=30 if len(tokens) > 3 else 0)
    ax.set_xlabel("before block")
    ax.set_ylabel("patches kept, %")


def _shares(ax: Axes, shares: Sequence[float]) -> None:
    ax.bar(range(len(shares)), [100] * len(shares), color="#e2e8f0", width=0.8)
    ax.bar(range(len(shares)), [100 * share for share in shares], color=TONES["finetuned"], width=0.8)
    ax.set_ylim(0, 100)
    _plain(ax)


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    ax.set_axisbelow(True)
