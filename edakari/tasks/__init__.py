"""Data, losses and metrics of one task each."""

from edakari.tasks.classify import Classification, task_from_settings
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources import EMBEDDED

__all__ = ["EMBEDDED", "Augment", "Classification", "DataSettings", "task_from_settings"]
