"""Data, losses and metrics of one task each."""

from edakari.tasks.classify import Classification
from edakari.tasks.multilabel import MultiLabel
from edakari.tasks.registry import ImageTask, task_from_settings
from edakari.tasks.segment import Segmentation
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources import EMBEDDED

__all__ = [
    "EMBEDDED",
    "Augment",
    "Classification",
    "DataSettings",
    "ImageTask",
    "MultiLabel",
    "Segmentation",
    "task_from_settings",
]
