"""The task that a recipe asks for."""

from __future__ import annotations

from edakari.core.file_errors import file_errors
from edakari.core.protocols import Task
from edakari.errors import DataError
from edakari.tasks.classify import Classification
from edakari.tasks.multilabel import MultiLabel
from edakari.tasks.segment import Segmentation
from edakari.tasks.settings import TASKS, DataSettings

__all__ = ["ImageTask", "image_task", "task_from_settings"]

ImageTask = Classification | MultiLabel | Segmentation


@file_errors()
def task_from_settings(settings: DataSettings, seed: int = 0) -> Task:
    """The task that settings describe; reads arrays and label maps whole, and of other folders the names.

    Args:
        settings: see `DataSettings`; their own seed draws splits and subsets alone.
        seed: seed of the training's order and augmentation.

    Raises:
        DataError: the data is missing, empty, unreadable or of the wrong form.
        UnknownName: the task, the metric or the embedded data set is not known.
    """
    make = TASKS.named(settings.task)
    if (
        settings.task in ("multilabel", "segmentation")
        and not settings.train
        and settings.source.startswith("embedded:")
    ):
        raise DataError(f"data.task {settings.task} needs data.source or data.train; {settings.source!r} has classes")
    task = make(settings, seed)
    TASKS.require(task, settings.task)
    return task


def image_task(settings: DataSettings, seed: int = 0) -> ImageTask:
    """The task that settings describe, which is one of edakari's own on images; see `task_from_settings`.

    Raises:
        DataError: it is another one.
    """
    task = task_from_settings(settings, seed)
    if not isinstance(task, ImageTask):
        raise DataError(
            f"this needs a task on images (classification, multilabel, segmentation), not {settings.task!r}"
        )
    return task
