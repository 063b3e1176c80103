"""Views of what a dense and a pruned network find in validation images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.core.protocols import Batch, Task
from edakari.errors import DataError
from edakari.report.predictions import PredictionView

__all__ = ["pixels_of", "prediction_view", "require_drawing"]

METHOD = "drawn(image, shown)"


def require_drawing(task: Task) -> None:
    """Refuse a task that does not say how its images are drawn.

    Raises:
        DataError: the task has no method `drawn`; the message says what it takes and returns.
    """
    if not callable(getattr(task, "drawn", None)):
        raise DataError(
            f"the task {type(task).__name__} has no method {METHOD}, so its predictions cannot be shown; add one "
            "(with edakari.Task.of: drawn=...) that draws the entry of an image in batch[1], or in the outputs, into "
            "the image, uint8 [3, H, W], and returns such a picture"
        )


def prediction_view(dense: nn.Module, pruned: nn.Module, task: Task, images: int = 6) -> PredictionView:
    """Draw annotations and outputs of the first validation images.

    Args:
        dense: the unpruned network.
        pruned: the pruned network.
        task: task whose validation images are shown; its method `drawn` draws them.
        images: largest number of images.

    Raises:
        DataError: the task cannot draw, or draws something else than a picture; there is no validation image.
    """
    require_drawing(task)
    rows: list[tuple[npt.NDArray[np.uint8], ...]] = []
    with eval_mode(dense, pruned), torch.no_grad():
        for batch in task.batches("val"):
            rows += list(_rows(dense, pruned, task, batch, images - len(rows)))
            if len(rows) >= images:
                break
    if not rows:
        raise DataError("there are no validation images to draw")
    return PredictionView(tuple((row[0], row[1], row[2]) for row in rows))


def _rows(
    dense: nn.Module, pruned: nn.Module, task: Task, batch: Batch, most: int
) -> Iterator[tuple[npt.NDArray[np.uint8], ...]]:
    pixels = pixels_of(task, batch)
    shown = (batch[1], task.outputs(dense, batch), task.outputs(pruned, batch))
    for number in range(min(most, len(pixels))):
        yield tuple(_drawn(task, pixels[number], _entry(each, number)) for each in shown)


def pixels_of(task: Any, batch: Batch) -> torch.Tensor:
    """Return the images of a batch as uint8 [N, 3, H, W].

    Args:
        task: task of the batch.
        batch: a batch that begins with images.

    Raises:
        DataError: it does not.
    """
    images = batch[0] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    if not isinstance(images, torch.Tensor) or images.ndim != 4:
        raise DataError("batches of this task do not begin with images [N, C, H, W], so they cannot be drawn")
    if hasattr(task, "pictures"):
        bright = task.pictures(images)
    else:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        bright = ((images - low) / (high - low).clamp(min=1e-12)).cpu()
    if bright.shape[1] != 3:
        bright = bright.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    pixels: torch.Tensor = (bright.float() * 255).round().to(torch.uint8)
    return pixels


def _entry(found: Any, number: int) -> Any:
    """What belongs to one image of a batch."""
    return {name: each[number] for name, each in found.items()} if isinstance(found, Mapping) else found[number]


def _drawn(task: Any, image: torch.Tensor, shown: Any) -> npt.NDArray[np.uint8]:
    picture = task.drawn(image.clone(), shown)
    if not isinstance(picture, torch.Tensor) or picture.dtype != torch.uint8 or picture.shape[:-2] != (3,):
        found = (
            f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, torch.Tensor) else type(picture).__name__
        )
        raise DataError(f"{type(task).__name__}.{METHOD} returned {found}; a picture is uint8 [3, H, W]")
    pixels: npt.NDArray[np.uint8] = picture.permute(1, 2, 0).cpu().numpy()
    return pixels
