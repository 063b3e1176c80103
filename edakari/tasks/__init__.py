"""Tasks: data, losses and metrics."""

from edakari.tasks.base import ImageTask
from edakari.tasks.classify import Classification
from edakari.tasks.multilabel import MultiLabel
from edakari.tasks.registry import image_task, task_from_datasets, task_from_settings
from edakari.tasks.segment import Segmentation
from edakari.tasks.settings import TASKS, Augment, DataSettings
from edakari.tasks.sources import EMBEDDED, SOURCES

__all__ = [
    "EMBEDDED",
    "SOURCES",
    "TASKS",
    "Augment",
    "Classification",
    "DataSettings",
    "ImageTask",
    "MultiLabel",
    "Segmentation",
    "image_task",
    "task_from_datasets",
    "task_from_settings",
]
