"""The stage that compares what the dense and the finished network answer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from edakari.core.answers import AnswersResult, ChangedImage
from edakari.core.memory_format import in_memory_format
from edakari.core.protocols import IndexedTask, Task, is_indexed
from edakari.errors import DataError
from edakari.pipeline.context import Run

__all__ = ["answers_stage"]

EXAMPLES = 3
"""Images with the outputs of both networks."""


def answers_stage(run: Run) -> AnswersResult:
    """Compare the answers of both networks, for tasks with a method `answers`; a run folder gets pictures of some.

    Args:
        run: the run.
    """
    compare = getattr(run.task, "answers", None)
    if not callable(compare):
        return AnswersResult()
    pruned = run.network("finished")
    with in_memory_format(run.dense, run.memory_format), in_memory_format(pruned, run.memory_format):
        found: AnswersResult = compare(run.dense, pruned)
        if run.store.path is not None and run.processes.main:
            _draw(run.task, run.dense, pruned, found, run.store.path)
    return found


def _draw(task: Task, dense: nn.Module, pruned: nn.Module, found: AnswersResult, folder: Path) -> None:
    """Add pictures to the report: images whose class changed, or images with the outputs of both networks."""
    # they need an extra, which a run without a folder does not
    from edakari.explain.predictions import prediction_view
    from edakari.report.changed import draw_changed
    from edakari.report.explanation import write_explanation
    from edakari.report.predictions import draw_predictions

    if found.changed and is_indexed(task):
        pixels = _images(task, found.changed)
        write_explanation(draw_changed(found.changed, pixels, folder), folder)
    elif not found.outcomes and callable(getattr(task, "drawn", None)):
        with contextlib.suppress(DataError):  # a task whose images cannot be drawn has no such pictures
            write_explanation(draw_predictions(prediction_view(dense, pruned, task, EXAMPLES), folder), folder)


def _images(task: IndexedTask, changed: Sequence[ChangedImage]) -> list[npt.NDArray[np.uint8]]:
    """Pictures uint8 [height, width, 3] of some validation images."""
    from edakari.explain.predictions import pixels_of

    (batch,) = task.batches_at("val", [np.array([each.index for each in changed])])
    pixels: list[npt.NDArray[np.uint8]] = list(pixels_of(task, batch).permute(0, 2, 3, 1).numpy())
    return pixels
