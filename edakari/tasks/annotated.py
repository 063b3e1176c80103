"""Annotated images of what a recipe or a program names."""

from __future__ import annotations

from edakari.tasks.settings import DataSettings
from edakari.tasks.sources.examples import Examples, Wanted
from edakari.tasks.sources.formats import read_examples
from edakari.tasks.sources.own_data import from_dataset

__all__ = ["annotated_images"]


def annotated_images(data: DataSettings, wanted: Wanted) -> tuple[Examples, Examples | None]:
    """Read the annotations of training images, and of validation images if there are any.

    Args:
        data: settings of the data.
        wanted: what the task asks for.

    Raises:
        DataError: the data is missing, damaged, of another form, or lacks what is wanted.
        UnknownName: there is no such format.
    """
    if data.datasets is None:
        return read_examples(data.source, wanted, data.train, data.val)
    train, val = data.datasets
    first = from_dataset(train, "the training data", wanted)
    return first, None if val is None else from_dataset(val, "the validation data", wanted.like(first))
