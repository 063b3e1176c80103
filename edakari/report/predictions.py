"""Pictures of images with what they show and what the dense and the pruned network find."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.files import replacing
from edakari.core.optional import needs
from edakari.report.explanation import FOLDER, Explanation, Picture

__all__ = ["PredictionView", "draw_predictions"]

COLUMNS = ("annotation", "dense", "pruned")
Pixels = npt.NDArray[np.uint8]


@dc.dataclass(frozen=True, eq=False)
class PredictionView:
    """Pictures of some images.

    Args:
        rows: for each image, three pictures uint8 [height, width, 3]: with the annotation, with the dense network's
            output, and with the pruned network's.
    """

    rows: tuple[tuple[Pixels, Pixels, Pixels], ...]


def draw_predictions(view: PredictionView, folder: str | Path) -> Explanation:
    """Write the picture into a run folder.

    Args:
        view: pictures of images.
        folder: the run folder.

    Returns:
        The explanation with this picture.
    """
    target = Path(folder) / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    with replacing(target / "predictions.png") as temporary:
        _figure(view).savefig(temporary, format="png", metadata={"Software": "edakari"})
    return Explanation(
        name="predictions",
        title="What the networks find",
        text=f"The first {len(view.rows)} validation images, each with its annotation, with the dense network's output "
        "and with the pruned network's.",
        pictures=(
            Picture(
                file="predictions.png", title="Annotation, dense and pruned network", note="Images are not chosen."
            ),
        ),
    )


def _figure(view: PredictionView) -> Any:
    with needs("report", "drawing a picture"):
        # most commands draw nothing, and matplotlib takes long to import
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    heights = [3.2 * max(each.shape[0] / each.shape[1] for each in row) for row in view.rows]
    figure = Figure(figsize=(3.2 * len(COLUMNS), sum(heights) + 0.4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(view.rows), len(COLUMNS), squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, pictures in zip(axes, view.rows, strict=True):
        for ax, pixels in zip(row, pictures, strict=True):
            ax.imshow(pixels, interpolation="nearest")
            ax.set_axis_off()
    for ax, name in zip(axes[0], COLUMNS, strict=True):
        ax.set_title(name, fontsize=10, fontweight="bold")
    return figure
