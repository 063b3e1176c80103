"""Pictures of images for which the dense and the pruned network answer different classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edakari.core.answers import ChangedImage
from edakari.core.files import replacing
from edakari.core.optional import needs
from edakari.report.explanation import FOLDER, Explanation, Picture

__all__ = ["draw_changed"]

SIDE = 160
"""Larger images are thinned out to about this height and width, px."""


def draw_changed(
    changed: Sequence[ChangedImage], pixels: Sequence[npt.NDArray[np.uint8]], folder: str | Path
) -> Explanation:
    """Write the pictures into a run folder.

    Args:
        changed: images whose answers differ.
        pixels: picture of each, uint8 [height, width, 3].
        folder: the run folder.

    Returns:
        The explanation with these pictures.
    """
    with needs("report", "drawing a picture"):
        # most commands draw nothing, and matplotlib takes long to import
        from matplotlib.image import imsave

    target = Path(folder) / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number, (each, image) in enumerate(zip(changed, pixels, strict=True)):
        step = max(1, max(image.shape[:2]) // SIDE)
        name = f"changed_{number:02}.png"
        with replacing(target / name) as temporary:
            imsave(temporary, np.ascontiguousarray(image[::step, ::step]), format="png")
        note = f"dense: {each.dense}, pruned: {each.pruned}; image {each.index}"
        pictures.append(Picture(file=name, title=each.label, note=note))
    return Explanation(
        name="changed",
        title="Images whose class changed",
        text="Validation images for which the unpruned and the pruned network answer different classes, each below its "
        "label; those first that only one of them classifies correctly.",
        pictures=tuple(pictures),
    )
