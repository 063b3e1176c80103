"""The task that a recipe asks for."""

from __future__ import annotations

from edakari.core.file_errors import file_errors
from edakari.core.protocols import Task
from edakari.errors import DataError
from edakari.tasks.base import ImageTask
from edakari.tasks.settings import TASKS, DataSettings

__all__ = ["image_task", "task_from_settings"]

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


def image_task(settings: DataSettings, seed: int = 0) -> ImageTask:
    """Make the task of the settings, which must be a task on images; see `task_from_settings`.

    Raises:
        DataError: it is another task.
    """
    task = task_from_settings(settings, seed)
    if not isinstance(task, ImageTask):
        raise DataError(f"this needs one of edakari's tasks on images, found {type(task).__name__}")
    return task
