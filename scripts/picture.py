"""Draws docs/images/pruning.png, the first picture of README, from committed results.

    python scripts/picture.py

To the left, the demo's network before and after: each layer with the channels that it reads and writes, from
`benchmarks/results/demo.json`. To the right, accuracy against latency of the arms with three seeds, from
`benchmarks/results/cifar10_grid.json`.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import edakari
from edakari.core.layout import Concat, Layout, axes, extent
from edakari.report.inspection import inspection
from edakari.report.rows import Row, network_rows

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COLOURS = ("#0f766e", "#d97706", "#2563eb", "#be185d", "#7c3aed", "#65a30d", "#0891b2", "#dc2626", "#a16207")
UNPRUNABLE, SOFT, INK = "#94a3b8", "#64748b", "#16202c"
ARMS = {
    "smcp": ("edakari, smcp", "#0f766e", "o"),
    "magnitude": ("edakari, magnitude", "#2563eb", "s"),
    "taylor": ("edakari, taylor", "#7c3aed", "D"),
    "torch-pruning group norm": ("Torch-Pruning 1.6, group norm", "#d97706", "^"),
}
"""Arms of the grid with three seeds at every budget: title, colour and marker."""


def draw() -> Path:
    """Write the picture, and return its path."""
    figure = Figure(figsize=(12.4, 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.12, 1))
    network(left, json.loads((RESULTS / "demo.json").read_text(encoding="utf-8")))
    frontier(right, json.loads((RESULTS / "cifar10_grid.json").read_text(encoding="utf-8")))
    path = ROOT / "docs" / "images" / "pruning.png"
    figure.savefig(path, metadata={"Software": "edakari"})
    return path


def network(ax: Axes, report: Mapping[str, Any]) -> None:
    """Draw the layers of the demo's network: what stays is solid, what was cut is pale."""
    model = edakari.build(report["model"])
    graph = edakari.trace(model, torch.zeros(1, 1, 28, 28))
    rows = network_rows(graph, inspection(report["model"], graph, model).tree)
    sizes = {group["name"]: group["kept"] for group in report["groups"]}
    tones = dict(zip(sizes, itertools.cycle(COLOURS)))
    for y, row in enumerate(rows):
        for layout, sign in ((row.node.input_layout, -1), (row.node.output_layout, 1)):
            x = 0.0
            for part in parts(layout):
                whole, kept, tone = extent(part, {}), extent(part, sizes), tone_of(part, tones)
                ax.barh(y, sign * whole, left=sign * x, height=0.66, color=tone, alpha=0.22, linewidth=0)
                ax.barh(y, sign * kept, left=sign * x, height=0.66, color=tone, linewidth=0)
                x += whole
        ax.text(label_x(rows), y, title_of(row), va="center", fontsize=9, color=INK)
    ax.axvline(0, color="white", linewidth=2.5)
    dense, last = report["networks"][0], report["networks"][-1]
    macs = last["costs"]["macs"] / dense["costs"]["macs"]
    before, after = (100 * each["metrics"]["top1"] for each in (dense, last))
    faster = dense["latency"]["onnxruntime"]["median_ms"] / last["latency"]["onnxruntime"]["median_ms"]
    ax.set_title(
        f"edakari demo: {macs:.0%} of the MACs, {faster:.2f} × as fast, top-1 {before:.1f} → {after:.1f} %",
        fontsize=11.5,
        fontweight="bold",
        color=INK,
        loc="left",
    )
    legend = "pale: cut; one colour: cut together; grey: cannot be cut"
    ax.set_xlabel(f"← channels that a layer reads      channels that it writes →\n{legend}", color=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(label_x(rows), None)
    ax.set_xticks([])
    ax.set_yticks([])
    plain(ax, "left", "bottom")


def parts(layout: Layout | None) -> Iterator[Layout]:
    """Parts of a layer's channels that lie one after the other."""
    if isinstance(layout, Concat):
        for part in layout.parts:
            yield from parts(part)
    elif layout is not None:
        yield layout


def tone_of(part: Layout, tones: Mapping[str, str]) -> str:
    """Colour of the group of these channels."""
    return next((tones[axis.group] for axis in axes(part) if axis.group in tones), UNPRUNABLE)


def title_of(row: Row) -> str:
    """Name of a layer with its block; its norm joins it."""
    name = row.name.removesuffix(" + 1").removesuffix(".0")
    return f"{row.block}.{name}" if row.block else name


def label_x(rows: Sequence[Row]) -> float:
    """Left edge of the names."""
    widest = max(extent(row.node.input_layout, {}) for row in rows if row.node.input_layout is not None)
    return -1.85 * float(widest)


def frontier(ax: Axes, results: Mapping[str, Any]) -> None:
    """Draw the mean over the seeds of each arm and budget, and the best means of each arm."""
    dense = 100 * next(iter(results["arms"].values()))["dense_top1"]
    for arm, (title, tone, marker) in ARMS.items():
        rows = [row for row in results["arms"].values() if row["arm"] == arm]
        points = []
        for _, group in itertools.groupby(sorted(rows, key=lambda row: row["budget"]), key=lambda row: row["budget"]):
            runs = list(group)
            if len(runs) > 1:
                tops, times = [100 * run["top1"] for run in runs], [100 * run["latency"] for run in runs]
                points.append((statistics.mean(times), statistics.mean(tops), statistics.stdev(tops)))
        across, up, error = zip(*sorted(points), strict=True)
        ax.errorbar(across, up, error, fmt=marker, color=tone, markersize=6.5, elinewidth=1, alpha=0.9, label=title)
        best = [point for point in points if all(each[1] < point[1] for each in points if each[0] < point[0])]
        ax.step(*zip(*[point[:2] for point in sorted(best)], strict=True), where="post", color=tone, linewidth=1.6)
    ax.axhline(dense, color=SOFT, linestyle="--", linewidth=1)
    ax.text(46, dense + 0.25, f"unpruned {dense:.1f} %", fontsize=9, color=SOFT)
    ax.set_title("ResNet-20, CIFAR-10, one short training", fontsize=11.5, fontweight="bold", color=INK, loc="left")
    ax.set_xlabel("latency in ONNX Runtime, % of the unpruned network")
    ax.set_ylabel("top-1 accuracy, %; mean of 3 seeds ± standard deviation")
    ax.legend(frameon=False, loc="lower right", fontsize=9.5)
    ax.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    ax.set_axisbelow(True)
    plain(ax)


def plain(ax: Axes, *more: str) -> None:
    """Leave out the frame."""
    ax.spines[["top", "right", *more]].set_visible(False)
    ax.tick_params(colors=SOFT)


if __name__ == "__main__":
    print(draw())
