"""Pictures of what filters respond to: images with the strongest responses, and the classes of these images."""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edakari.core.files import replacing
from edakari.core.optional import needs
from edakari.report.explanation import FOLDER, Explanation, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FilterView", "FilterViews", "LayerView", "draw_filters"]

Floats = npt.NDArray[np.float64]
KEPT, REMOVED, SOFT, INK, FRAME = "#0f766e", "#d97706", "#94a3b8", "#16202c", "#e11d48"
BARS = 20
"""Largest number of classes drawn individually; with more, only each filter's most frequent ones are drawn."""


@dc.dataclass(frozen=True, eq=False)
class FilterView:
    """One filter.

    Args:
        index: index of the filter in the group.
        entropy: entropy of the classes of its strongest images, in bits.
        kept: whether the plan keeps it.
        crops: image regions of its strongest responses, strongest first, each [height, width, channels] in 0 to 1,
            with the layer's margin; NaN outside the image.
        labels: class of each crop, -1 without a class.
        shares: fraction of each class among all its strongest images, [classes].
    """

    index: int
    entropy: float
    kept: bool
    crops: tuple[Floats, ...]
    labels: tuple[int, ...]
    shares: Floats


@dc.dataclass(frozen=True, eq=False)
class LayerView:
    """One layer.

    Args:
        name: dotted path of its module.
        field: height and width of the receptive field in pixels; None if it may cover the complete image.
        margin: pixels around the receptive field that crops include.
        entropies: entropies of all filters in bits, [filters].
        kept: which filters the plan keeps, [filters].
        shared: whether filters of other layers are removed together with these.
        filters: filters to draw, most discriminative first.
    """

    name: str
    field: tuple[int, int] | None
    margin: int
    entropies: Floats
    kept: npt.NDArray[np.bool_]
    shared: bool
    filters: tuple[FilterView, ...]


@dc.dataclass(frozen=True, eq=False)
class FilterViews:
    """Filters of the dense network of a run.

    Args:
        layers: all layers that produce groups, in order; layers without filters appear only in the overview.
        classes: names of the classes.
        images: number of images used.
        top: number of strongest images of each filter.
        method: name of the method that made the plan.
    """

    layers: tuple[LayerView, ...]
    classes: Sequence[str]
    images: int
    top: int
    method: str

    @property
    def most(self) -> float:
        """The largest possible entropy, in bits."""
        return float(np.log2(max(2, min(len(self.classes), self.top))))


def draw_filters(views: FilterViews, folder: str | Path) -> Explanation:
    """Write the pictures into a run folder.

    Args:
        views: filters of the run's dense network.
        folder: the run folder.

    Returns:
        The explanation with these pictures.
    """
    path = Path(folder) / FOLDER
    _draw_overview(views, path / "rfc-layers.png")
    pictures = [
        Picture(
            file="rfc-layers.png",
            title="All filters of all layers",
            note="Each dot is a filter; high entropy means many classes, low means few. Removed filters are orange.",
        )
    ]
    for layer in views.layers:
        if layer.filters:
            file = f"rfc-{re.sub(r'[^A-Za-z0-9]+', '-', layer.name)}.png"
            _draw_layer(layer, views, path / file)
            pictures.append(Picture(file=file, title=layer.name, note=_layer_note(layer)))
    return Explanation(name="rfc", title="What filters respond to", text=_text(views), pictures=tuple(pictures))


def _text(views: FilterViews) -> str:
    kept = np.concatenate([layer.entropies[layer.kept] for layer in views.layers])
    gone = np.concatenate([layer.entropies[~layer.kept] for layer in views.layers])
    text = (
        f"For each filter of the dense network: the {views.top} of {views.images} training images with the strongest "
        "responses, and their classes. Fewer classes give a lower entropy, and the filter separates classes better. "
        f"An entropy of 0 bits means a single class, {views.most:.2f} bits all classes equally. "
    )
    if not len(gone):
        return text + "The plan removes no filter of these layers."
    return text + (
        f"The plan of method {views.method!r} removes {len(gone)} of {len(gone) + len(kept)}: their mean entropy is "
        f"{gone.mean():.2f} bits, that of the others {kept.mean():.2f} bits."
    )


def _layer_note(layer: LayerView) -> str:
    seen = (
        f"Each {'frame' if layer.margin else 'crop'} is the {layer.field[0]} × {layer.field[1]} pixels that the filter "
        "sees at its strongest response"
        if layer.field
        else "Each filter sees the whole image"
    )
    return f"{seen}. {int((~layer.kept).sum())} of {len(layer.kept)} filters are removed." + (
        " Filters of layers that add to the same sum are removed together, by mean score." if layer.shared else ""
    )


def _draw_overview(views: FilterViews, path: Path) -> None:
    layers = views.layers
    figure = _figure((min(max(7.0, 0.42 * len(layers) + 1.5), 24.0), 4.4))
    ax = figure.subplots()
    rng = np.random.default_rng(0)
    size = 14.0 if sum(len(layer.kept) for layer in layers) < 4000 else 5.0
    for index, layer in enumerate(layers):
        across = index + rng.uniform(-0.3, 0.3, len(layer.kept))
        for chosen, tone in ((layer.kept, KEPT), (~layer.kept, REMOVED)):
            ax.scatter(across[chosen], layer.entropies[chosen], s=size, color=tone, alpha=0.65, linewidths=0)
        for chosen, tone in ((layer.kept, KEPT), (~layer.kept, REMOVED)):
            if chosen.any():
                mean = layer.entropies[chosen].mean()
                ax.plot([index - 0.4, index + 0.4], [mean, mean], color=tone, linewidth=2.2)
    ax.axhline(views.most, color=SOFT, linestyle="--", linewidth=1)
    ax.annotate("all classes alike", (len(layers) - 0.5, views.most), ha="right", va="bottom", fontsize=8, color=SOFT)
    for tone, text in ((KEPT, "kept"), (REMOVED, "removed")):
        ax.scatter([], [], s=30, color=tone, label=text)
    ax.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    ax.set_xticks(range(len(layers)), [_short(layer.name) for layer in layers], rotation=60, ha="right", fontsize=8)
    ax.set_xlim(-0.7, len(layers) - 0.3)
    ax.set_ylim(-0.05 * views.most, 1.1 * views.most)
    ax.set_ylabel("entropy, bits (low = discriminative)")
    _save(figure, path)


def _draw_layer(layer: LayerView, views: FilterViews, path: Path) -> None:
    most = max(len(each.crops) for each in layer.filters)
    figure = _figure((1.05 * most + 4.3, 1.12 * len(layer.filters) + 0.9))
    grid = figure.subplots(
        len(layer.filters),
        most + 2,
        squeeze=False,
        width_ratios=[1.15, *([1.0] * most), 2.6],
        gridspec_kw={"wspace": 0.06},
    )
    for row, each in zip(grid, layer.filters, strict=True):
        _label(row[0], each)
        for ax, index in zip(row[1:-1], range(most), strict=True):
            ax.set_axis_off()
            if index < len(each.crops):
                _show(ax, each.crops[index], layer.margin)
        _histogram(row[-1], each, views, last=each is layer.filters[-1])
    half = (len(layer.filters) + 1) // 2
    for index, text in ((0, "most discriminative: strongest responses →"), (half, "least discriminative")):
        if index < len(layer.filters):
            # a title would make its column as wide as itself
            ax = grid[index][1]
            ax.text(0, 1.04, text, transform=ax.transAxes, fontsize=9, color=SOFT, va="bottom").set_in_layout(False)
    grid[0][-1].set_title(f"classes of the strongest {views.top}", fontsize=9, color=SOFT)
    _save(figure, path)


def _label(ax: Axes, each: FilterView) -> None:
    ax.set_axis_off()
    tone = KEPT if each.kept else REMOVED
    ax.text(0.95, 0.72, f"filter {each.index}", ha="right", va="center", fontsize=9, fontweight="bold", color=INK)
    ax.text(0.95, 0.47, f"{each.entropy:.2f} bits", ha="right", va="center", fontsize=9, color=INK)
    ax.text(0.95, 0.22, "kept" if each.kept else "removed", ha="right", va="center", fontsize=9, color=tone)


def _show(ax: Axes, crop: Floats, margin: int) -> None:
    from matplotlib.patches import Rectangle

    pixels = crop if crop.shape[2] == 3 else np.repeat(crop[:, :, :1], 3, axis=2)
    # beyond the border of the image
    ax.imshow(np.where(np.isnan(pixels), 0.93, pixels), interpolation="nearest", vmin=0, vmax=1)
    height, width = crop.shape[0] - 2 * margin, crop.shape[1] - 2 * margin
    tone, width_px = (FRAME, 2.0) if margin else (SOFT, 0.6)
    corner = (margin - 0.5, margin - 0.5)
    ax.add_patch(Rectangle(corner, width, height, fill=False, clip_on=False, edgecolor=tone, linewidth=width_px))


def _histogram(ax: Axes, each: FilterView, views: FilterViews, *, last: bool) -> None:
    few = len(each.shares) <= BARS
    order = np.arange(len(each.shares)) if few else np.argsort(-each.shares, kind="stable")[: BARS // 2]
    values = each.shares[order] * 100
    tones = [KEPT if each.kept else REMOVED] * len(order)
    ax.bar(range(len(order)), values, color=tones, width=0.8)
    ax.axhline(100 / len(each.shares), color=SOFT, linestyle=":", linewidth=1)
    ax.set_ylim(0, 120)
    ax.set_yticks([0, 50, 100], ["", "50 %", "100 %"], fontsize=7, color=SOFT)
    ax.yaxis.tick_right()
    ax.spines[["top", "left", "right"]].set_visible(False)
    names = [_word(views.classes[index]) for index in order]
    shown = names if last or not few else []
    ax.set_xticks(range(len(order)), shown or [""] * len(order), rotation=60, ha="right", fontsize=7)
    best = int(np.argmax(values))
    if few and values[best] > 15:
        ax.annotate(
            names[best], (best, values[best]), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7.5
        )


def _short(name: str) -> str:
    return name if len(name) <= 22 else "…" + name[-21:]


def _word(name: str) -> str:
    return name.split(",")[0].split("/")[0][:14]


def _figure(size: tuple[float, float]) -> Figure:
    with needs("report", "drawing a picture"):
        # most commands draw nothing, and matplotlib takes long to import
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "edakari"})
