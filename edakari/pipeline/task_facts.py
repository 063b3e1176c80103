"""What the users of a network must know about its task: classes and preprocessing, as plain values."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch

from edakari.core.protocols import Task
from edakari.pipeline.one_batch import described
from edakari.tasks.base import ImageTask
from edakari.tasks.own import Task as OwnTask

__all__ = ["task_facts", "validation_images"]


def task_facts(task: Task) -> dict[str, Any]:
    """Return class names and preprocessing of a task.

    Args:
        task: task of a run.

    Returns:
        "task", name of its class; "answers", what its networks answer (see `edakari.core.output_kinds`), or "";
        "input", the form of the example; "classes"; "preprocessing": of images, "mean" and "std" of each channel for
        pixels in 0 to 1, "size" (height and width), "channels", and the fields of
        `edakari.tasks.preprocessing.Preprocessing` if an image alone tells what to do; and "values", the names of
        numbers, if the task has them.
    """
    example = task.example()
    found: dict[str, Any] = {
        "task": type(task).__name__,
        "answers": _answers(task),
        "input": described(example),
        "classes": list(getattr(task, "classes", ())),
        "preprocessing": {},
    }
    if isinstance(task, OwnTask):
        found["preprocessing"] = dict(task.preprocessing)
    elif isinstance(task, ImageTask) and isinstance(example, torch.Tensor):
        mean, std = task.data.normalization
        _, channels, *size = example.shape
        steps = task.data.preprocessing
        if steps is not None and steps.crop != tuple(size):
            steps = None  # evaluation takes larger images than an exported network, whose size is the example's
        own = {"mean": list(mean), "std": list(std), "size": list(size), "channels": channels}
        found["preprocessing"] = own | (steps.plain() if steps is not None else {})
    names = getattr(task, "names", None)
    return found if names is None else {**found, "values": list(names)}


def validation_images(task: Task) -> int | None:
    """Return the number of validation images of a task; None if it does not tell."""
    data = getattr(task, "data", None)
    splits = getattr(data, "splits", {})
    for held in (
        splits.get("val"),
        getattr(splits.get("val"), "labels", None),
        getattr(task.batches("val"), "dataset", None),
    ):
        if isinstance(held, Sized):
            return len(held) or None
    return None


def _answers(task: Task) -> str:
    options = getattr(task, "options", task)
    return str(getattr(options, "output_kind", None) or "")
