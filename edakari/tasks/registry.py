"""The task that a recipe asks for."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

from edakari.core.file_errors import file_errors
from edakari.core.protocols import Task
from edakari.errors import DataError, SettingsError
from edakari.tasks.base import ImageTask
from edakari.tasks.choice import TaskSettings
from edakari.tasks.settings import TASKS, DataSettings

__all__ = ["image_task", "task_from_datasets", "task_from_settings"]

MEMBERS = ("metric", "example", "batches", "outputs", "loss", "evaluate")
"""What a task must have."""


@file_errors()
def task_from_settings(settings: DataSettings, seed: int = 0) -> Task:
    """Make the task of the settings; reads arrays into memory, and of folders the names.

    Args:
        settings: settings of the data; their own seed draws splits and subsets only.
        seed: seed of the training's order and augmentation.

    Raises:
        DataError: the data is missing, empty, unreadable or of the wrong form, or a function returns no task.
        UnknownName: the metric or the embedded data set is unknown.
    """
    task = settings.task.make(settings, seed)
    missing = [member for member in MEMBERS if member not in dir(task)]
    if missing:
        name = TASKS.name_of(settings.task) or type(settings.task).__name__
        raise DataError(
            f"data.task {name!r} returned {type(task).__name__}, which has no {missing[0]!r}; return a task, such as "
            "edakari.Task.of(...)"
        )
    return task


def task_from_datasets(
    task: str | Mapping[str, Any] | TaskSettings, train: Any, val: Any = None, *, seed: int = 0, **data: Any
) -> Task:
    """Make one of edakari's tasks of map-style data sets.

        train = torchvision.datasets.CIFAR10("data", train=True)
        task = edakari.tasks.task_from_datasets("classification", train, batch_size=64)
        result = edakari.prune(model, task, "latency<=12ms", method="taylor")

    Args:
        task: name of the task, perhaps with settings: `{"name": "segmentation", "ignore_index": 0}`.
        train: training data; an item is an image, and what it shows: a label for classification, a target of
            `edakari.tasks.sources.examples.Examples` for tasks on annotated images. Images come as they are, neither
            augmented nor normalised.
        val: validation data; None takes a part of the training data.
        seed: seed of the training's order and augmentation.
        data: settings of the data by name, such as `image_size=(320, 320)`; see `DataSettings`.

    Raises:
        DataError: an item is of another form than the task asks for.
        SettingsError: a setting is unknown or invalid.
    """
    known = [
        field.name
        for field in dc.fields(DataSettings)
        if field.name not in ("task", "datasets", "source", "train", "val")
    ]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise SettingsError(f"task_from_datasets: there is no setting {unknown[0]!r}, only {', '.join(known)}")
    chosen: Any = task
    return task_from_settings(DataSettings(task=chosen, datasets=(train, val), **data), seed)


def image_task(settings: DataSettings, seed: int = 0) -> ImageTask:
    """Make the task of the settings, which must be a task on images; see `task_from_settings`.

    Raises:
        DataError: it is another task.
    """
    task = task_from_settings(settings, seed)
    if not isinstance(task, ImageTask):
        raise DataError(f"this needs one of edakari's tasks on images, found {type(task).__name__}")
    return task
