"""Pictures of kept tokens: images block by block, and the number of kept tokens per image."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edakari.core.files import replacing
from edakari.core.optional import needs
from edakari.report.explanation import FOLDER, Explanation, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TokenView", "draw_tokens"]

FADED = 0.18
"""Brightness of pruned patches."""


@dc.dataclass(frozen=True, eq=False)
class TokenView:
    """Decisions of selectors on some images.

    Args:
        images: images with values from 0 to 1, float [images, height, width, 1 or 3].
        kept: for each block with a selector, the mask of kept patches, bool [images, rows, columns].
        counts: for each such block, the number of patches that the selector's threshold keeps in each of many images;
            empty if a fixed number is kept.
        planned: for each such block, the number of patches that the plan keeps.
    """

    images: npt.NDArray[np.float32]
    kept: Mapping[str, npt.NDArray[np.bool_]]
    counts: Mapping[str, npt.NDArray[np.int64]]
    planned: Mapping[str, int]


def draw_tokens(view: TokenView, folder: str | Path) -> Explanation:
    """Write the pictures into a run folder.

    Args:
        view: decisions of the selectors.
        folder: the run folder.

    Returns:
        The explanation with these pictures.
    """
    target = Path(folder) / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    _save(_images(view), target / "tokens_images.png")
    pictures = [Picture(file="tokens_images.png", title="Kept patches", note="Pruned patches are faded.")]
    if view.counts:
        _save(_histograms(view), target / "tokens_counts.png")
        note = "Numbers by the selectors' thresholds; the line is the plan's number for every image."
        pictures.append(Picture(file="tokens_counts.png", title="Patches kept per image", note=note))
    planned = ", ".join(f"{count} at {block}" for block, count in view.planned.items())
    text = f"Tokens are pruned before {len(view.planned)} blocks; kept patches: {planned}."
    return Explanation(name="tokens", title="Tokens", text=text, pictures=tuple(pictures))


def _images(view: TokenView) -> Figure:
    with needs("report", "drawing a picture"):
        from matplotlib.figure import Figure  # takes a while to import

    rows, columns = len(view.images), 1 + len(view.kept)
    figure = Figure(figsize=(1.6 * columns, 1.6 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, image in enumerate(view.images):
        shown = [("image", image), *((block, _faded(image, kept[row])) for block, kept in view.kept.items())]
        for axis, (title, pixels) in zip(axes[row], shown, strict=True):
            axis.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=8)
    return figure


def _faded(image: npt.NDArray[np.float32], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    height, width = image.shape[:2]
    row = np.arange(height) * kept.shape[0] // height
    column = np.arange(width) * kept.shape[1] // width
    shade = np.where(kept[row[:, None], column[None]], 1.0, FADED).astype(np.float32)
    faded: npt.NDArray[np.float32] = image * shade[..., None]
    return faded


def _histograms(view: TokenView) -> Figure:
    with needs("report", "drawing a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(view.counts), 2.4), layout="constrained")
    axes = figure.subplots(1, len(view.counts), squeeze=False)[0]
    for axis, (block, counts) in zip(axes, view.counts.items(), strict=True):
        edges = np.arange(counts.min() - 0.5, counts.max() + 1.5, max(1, (counts.max() - counts.min()) // 24))
        axis.hist(counts, bins=edges if len(edges) > 1 else 1, color="#4c78a8")
        axis.axvline(view.planned[block], color="#d62728", linewidth=1)
        axis.set_title(f"{block}: mean {counts.mean():.1f}", fontsize=8)
        axis.set_xlabel("patches", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("images", fontsize=8)
    return figure


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
