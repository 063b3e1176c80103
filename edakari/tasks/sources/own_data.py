"""Map-style data sets of a user's own: `path/to/file.py:NAME`, a function or class that is called without arguments."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edakari.core.user_code import cause, made_by
from edakari.errors import DataError, EdakariError
from edakari.tasks.sources.converting import Converter
from edakari.tasks.sources.examples import Examples, Wanted, at_index, labels_of, notes_of, sizes_of

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["OwnData", "from_dataset", "from_file"]

LOOKED_AT = 20
"""Largest number of images in which an object with keypoints is looked for."""


@dc.dataclass(frozen=True, eq=False)
class OwnData:
    """A data set whose items are brought to the form of `edakari.tasks.sources.examples.Examples`.

    Args:
        dataset: the data set, with a length and items (image, target).
        convert: conversion of its items.
        joints: names of the keypoints.
        flip_pairs: keypoints that change places in a mirrored image.
    """

    dataset: Any
    convert: Converter
    joints: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in order of the labels."""
        return self.convert.classes

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the data set, if it has any."""
        return notes_of(self.dataset)

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, int32 [N, 2]; 0 where unknown."""
        return sizes_of(self.dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        index = at_index(index, len(self))
        try:
            item = self.dataset[index]
        except EdakariError:
            raise
        except Exception as error:
            raise DataError(f"{self.convert.where}, item {index} cannot be read: {cause(error)}") from error
        return self.convert(item, index)

    def labels_of(self, index: int) -> npt.NDArray[np.int64] | None:
        """Labels of an image's objects, if the data set tells them."""
        return labels_of(self.dataset, index)


def from_file(name: str, wanted: Wanted) -> tuple[Examples, Examples | None]:
    """Make the data sets that a function or class of a user's file gives.

    Args:
        name: "path/to/file.py:NAME". What it names is called without arguments, and gives a data set, or a pair: one
            for training and one for validation.
        wanted: what the task asks for.

    Raises:
        DataError: the file cannot be run, or what it gives is no data set of the wanted form.
    """
    where = f"data set {name!r}"
    made = made_by(name, where, "data set", DataError)
    train, val = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    first = from_dataset(train, where, wanted)
    return first, None if val is None else from_dataset(val, f"{where} (validation)", wanted.like(first))


def from_dataset(dataset: Any, where: str, wanted: Wanted) -> OwnData:
    """Check a map-style data set, and its first item.

    Args:
        dataset: the data set. `classes`, a list of names, says what labels stand for; `joints` and `flip_pairs` may say
            it of keypoints.
        where: the data set, as the subject of a sentence.
        wanted: what the task asks for.

    Raises:
        DataError: it has no length, no items, no classes, or its first item is of another form.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{where}: a map-style data set is needed, with a length and items by index, but {type(dataset).__name__} "
            "has none" + (" (an iterable data set cannot be shuffled or split)" if hasattr(dataset, "__iter__") else "")
        )
    if not len(dataset):
        raise DataError(f"{where}: it is empty")
    labelled = wanted.target not in ("depth", "image")
    names = (getattr(dataset, "classes", None) or wanted.classes) if labelled else ()
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(each, str) for each in names):
        raise DataError(
            f"{where}: it has no `classes`, a list with the name of each class in order of the labels, without a "
            "background"
        )
    if wanted.classes is not None and tuple(names) != wanted.classes:
        raise DataError(
            f"{where}: it has other classes than the training data: {list(names)[:8]}, where "
            f"{list(wanted.classes)[:8]} are known"
        )
    found = OwnData(dataset, Converter(where, tuple(names), wanted))
    found[0]  # of another form, it is an error now and not in a worker
    count = _joints(found) if wanted.target == "keypoints" else 0
    joints = tuple(map(str, getattr(dataset, "joints", None) or range(count)))
    pairs = tuple((int(one), int(other)) for one, other in getattr(dataset, "flip_pairs", ()))
    if count and len(joints) != count:
        raise DataError(f"{where}: it names {len(joints)} joints, but objects have {count} keypoints")
    convert = dc.replace(found.convert, joints=len(joints))
    return dc.replace(found, convert=convert, joints=joints, flip_pairs=pairs)


def _joints(examples: Examples) -> int:
    """Number of keypoints of an object, by the first of some images that shows one."""
    shapes = (examples[index][1]["visible"].shape for index in range(min(len(examples), LOOKED_AT)))
    return next((int(count) for number, count in shapes if number), 0)
