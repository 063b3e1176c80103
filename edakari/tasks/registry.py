"""The task that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edakari.core.file_errors import file_errors
from edakari.errors import DataError, UnknownName
from edakari.tasks.classify import Classification, classification
from edakari.tasks.multilabel import MultiLabel, multilabel
from edakari.tasks.segment import Segmentation, segmentation
from edakari.tasks.settings import DataSettings

__all__ = ["TASKS", "ImageTask", "task_from_settings"]

ImageTask = Classification | MultiLabel | Segmentation
TASKS: Mapping[str, Callable[[DataSettings, int], ImageTask]] = {
    "classification": classification,
    "multilabel": multilabel,
    "segmentation": segmentation,
}


@file_errors()
def task_from_settings(settings: DataSettings, seed: int = 0) -> ImageTask:
    """The task that settings describe; reads arrays and label maps whole, and of other folders the names.

    Args:
        settings: see `DataSettings`; their own seed draws splits and subsets alone.
        seed: of the training's order and augmentation.

    Raises:
        DataError: the data is missing, empty, unreadable or of the wrong form.
        UnknownName: the task, the metric or the embedded data set is not known.
    """
    if settings.task not in TASKS:
        raise UnknownName("task", settings.task, TASKS)
    if settings.task != "classification" and not settings.train and settings.source.startswith("embedded:"):
        raise DataError(f"data.task {settings.task} needs data.source or data.train; {settings.source!r} has classes")
    return TASKS[settings.task](settings, seed)
