"""Pictures of where a network looks before and after pruning."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edakari.core.files import replacing
from edakari.core.optional import needs
from edakari.report.explanation import FOLDER, Explanation, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Looks", "SaliencyView", "draw_saliency", "shares"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
TONES = {"dense": "#2563eb", "pruned": "#d97706"}
HALF = float(np.sqrt(2 * np.log(2)))
"""Radius at half height of a radial mask, in widths."""


@dc.dataclass(frozen=True, eq=False)
class Looks:
    """Saliency of one network on N images.

    Args:
        centres: row and column of mask centres in pixels, [N, 2].
        widths: mask widths in pixels, [N].
        masks: masks from 0 to 1, [N, H, W].
        said: class that the network predicts for each image, [N].
        masked: class that the predictor predicts for each masked image, [N].
        astray: class that the predictor predicts for each image with another image's mask, [N].
    """

    centres: Floats
    widths: Floats
    masks: Floats
    said: Integers
    masked: Integers
    astray: Integers

    @property
    def agreement(self) -> float:
        """Fraction of images whose masked version gets the same class."""
        return float((self.said == self.masked).mean())

    @property
    def chance(self) -> float:
        """The same fraction with the masks of other images: the baseline for masks."""
        return float((self.said == self.astray).mean())

    @property
    def shown(self) -> float:
        """Mean fraction of the image that the masks show."""
        return float(self.masks.mean())


@dc.dataclass(frozen=True, eq=False)
class SaliencyView:
    """Saliency of the dense and the pruned network on the same images.

    Args:
        images: images with values from 0 to 1, [N, H, W, channels].
        labels: true classes, [N].
        classes: names of the classes.
        dense: saliency of the dense network.
        pruned: saliency of the pruned network.
    """

    images: Floats
    labels: Integers
    classes: Sequence[str]
    dense: Looks
    pruned: Looks

    @property
    def overlaps(self) -> Floats:
        """Compute the overlap of each image's two masks: sum of minima divided by sum of maxima, [N]."""
        both = np.stack([self.dense.masks, self.pruned.masks])
        overlaps: Floats = both.min(0).sum((1, 2)) / both.max(0).sum((1, 2))
        return overlaps

    @property
    def shifts(self) -> Floats:
        """Compute the distance between each image's two centres in pixels, [N]."""
        distances: Floats = np.linalg.norm(self.dense.centres - self.pruned.centres, axis=1)
        return distances


def shares(view: SaliencyView) -> dict[str, float]:
    """Return the metrics of a view: agreements and overlaps as fractions, distances in pixels."""
    same = float((view.dense.said == view.pruned.said).mean())
    return {
        "images": float(len(view.images)),
        "agreement_dense": view.dense.agreement,
        "agreement_pruned": view.pruned.agreement,
        "chance_dense": view.dense.chance,
        "chance_pruned": view.pruned.chance,
        "same_class": same,
        "overlap_median": float(np.median(view.overlaps)),
        "shift_median_px": float(np.median(view.shifts)),
        "shown_dense": view.dense.shown,
        "shown_pruned": view.pruned.shown,
    }


def draw_saliency(view: SaliencyView, folder: str | Path, columns: int = 10) -> Explanation:
    """Write the pictures into a run folder.

    Args:
        view: saliency on some images.
        folder: the run folder.
        columns: number of images shown individually: the first of each class, then the second ones.

    Returns:
        The explanation with these pictures.
    """
    found, side = shares(view), sum(view.images.shape[1:3]) / 2
    path = Path(folder) / FOLDER
    chosen = _first_of_each_class(view.labels, columns)
    _draw_images(view, chosen, path / "isp-images.png")
    _draw_movement(view, path / "isp-agreement.png")
    return Explanation(
        name="isp",
        title="Where the network looks",
        text=_text(found, len(view.images), side),
        pictures=(
            Picture(
                file="isp-images.png",
                title="Dense (blue) and pruned network (orange)",
                note="Circles are masks at half height; the dashed one in the last row is the dense network's. "
                "The first images of each class, not chosen.",
            ),
            Picture(
                file="isp-agreement.png",
                title="How far saliency moved",
                note="Left: overlap of the two masks. Middle and right: centres and widths against each other; no "
                "change lies on the line.",
            ),
        ),
    )


def _text(found: Mapping[str, float], images: int, side: float) -> str:
    shift = found["shift_median_px"]
    return (
        "An explainer predicts a mask for each image: centre and width of the region where a network looks for the "
        "image's class. It was trained on the dense network and is frozen; only the network changes. "
        f"Over {images} validation images the masks of the dense and the pruned network overlap by "
        f"{found['overlap_median']:.0%} (median), and their centres lie {shift:.1f} pixels apart "
        f"({shift / side:.0%} of the image's side). A second network sees only what a mask shows, "
        f"{found['shown_dense']:.0%} of the image: with the dense network's masks it names the dense network's class "
        f"in {found['agreement_dense']:.1%} of the cases ({found['chance_dense']:.1%} with the masks of other images), "
        f"with the pruned network's masks the pruned network's in {found['agreement_pruned']:.1%} "
        f"({found['chance_pruned']:.1%})."
    )


def _first_of_each_class(labels: Integers, count: int) -> list[int]:
    """Indices of images: the first of each class, then the second of each, and so on."""
    turns = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        turns[own] = np.arange(len(own))
    order = np.lexsort((labels, turns))
    return [int(index) for index in order[:count]]


def _draw_images(view: SaliencyView, chosen: Sequence[int], path: Path) -> None:
    figure = _figure((1.35 * len(chosen) + 0.9, 4.9))
    rows = figure.subplots(3, len(chosen), squeeze=False)
    for column, index in enumerate(chosen):
        image = view.images[index]
        _show(rows[0][column], image, None)
        rows[0][column].set_title(_short(view.classes[int(view.labels[index])]), fontsize=9)
        for row, (name, looks) in enumerate((("dense", view.dense), ("pruned", view.pruned)), start=1):
            ax = rows[row][column]
            _show(ax, image, looks.masks[index])
            _circle(ax, looks, index, TONES[name], "-")
            said = _short(view.classes[int(looks.said[index])])
            right = looks.said[index] == view.labels[index]
            text = said if name == "dense" else f"{said}\noverlap {view.overlaps[index]:.0%}"
            ax.set_xlabel(text, fontsize=8, color="#334155" if right else "#dc2626")
        _circle(rows[2][column], view.dense, index, TONES["dense"], "--")
    for row, text in enumerate(("image", "dense looks", "pruned looks")):
        rows[row][0].set_ylabel(text, fontsize=10, fontweight="bold")
    _save(figure, path)


def _show(ax: Axes, image: Floats, mask: Floats | None) -> None:
    """Draw an image, dimmed by a mask."""
    pixels = image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
    if mask is not None:
        grey = pixels.mean(2, keepdims=True)
        strength = (0.18 + 0.82 * mask)[:, :, None]
        pixels = np.clip(strength * pixels + (1 - strength) * (0.75 + 0.25 * grey), 0, 1)
    ax.imshow(pixels, interpolation="nearest")
    ax.set(xlim=(-0.5, pixels.shape[1] - 0.5), ylim=(pixels.shape[0] - 0.5, -0.5), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _circle(ax: Axes, looks: Looks, index: int, tone: str, style: str) -> None:
    from matplotlib.patches import Circle

    row, column = looks.centres[index]
    ax.add_patch(
        Circle((column, row), HALF * looks.widths[index], fill=False, color=tone, linewidth=1.8, linestyle=style)
    )
    if style == "-":
        ax.plot([column], [row], marker="+", markersize=8, markeredgewidth=2, color=tone)


def _draw_movement(view: SaliencyView, path: Path) -> None:
    figure = _figure((11.5, 3.7))
    overlaps, centres, widths = figure.subplots(1, 3)
    overlaps.hist(view.overlaps * 100, bins=25, range=(0, 100), color=TONES["pruned"], alpha=0.85)
    overlaps.axvline(float(np.median(view.overlaps)) * 100, color="#334155", linestyle="--", linewidth=1)
    overlaps.set_xlabel("overlap of the two masks, % (dashed: median)")
    overlaps.set_ylabel("images")
    height, width = view.images.shape[1:3]
    for axis, (name, tone, limit) in enumerate((("row", "#0f766e", height), ("column", "#7c3aed", width))):
        pairs = (view.dense.centres[:, axis] / limit * 100, view.pruned.centres[:, axis] / limit * 100)
        centres.scatter(*pairs, s=5, alpha=0.35, color=tone, label=name, linewidths=0)
    _line(centres, 0, 100)
    centres.set_xlabel("centre in the dense network, % of the side")
    centres.set_ylabel("in the pruned network")
    centres.legend(frameon=False, markerscale=3)
    side = (height + width) / 2
    widths.scatter(
        view.dense.widths / side * 100, view.pruned.widths / side * 100, s=5, alpha=0.35, color="#be123c", linewidths=0
    )
    most = 105 * float(max(view.dense.widths.max(), view.pruned.widths.max())) / side
    _line(widths, 0, most)
    widths.set_xlabel("width in the dense network, % of the side")
    widths.set_ylabel("in the pruned network")
    for ax in (overlaps, centres, widths):
        ax.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _line(ax: Axes, low: float, high: float) -> None:
    ax.plot([low, high], [low, high], color="#94a3b8", linewidth=1, zorder=0)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")


def _figure(size: tuple[float, float]) -> Any:
    with needs("report", "drawing a picture"):
        # most commands draw nothing, and matplotlib takes long to import
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "edakari"})


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
