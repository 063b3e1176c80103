"""Data sets that come with the package."""

from __future__ import annotations

from pathlib import Path

from edakari.errors import UnknownName
from edakari.tasks.sources.arrays import Arrays
from edakari.tasks.sources.npz import from_npz

__all__ = ["EMBEDDED", "both_embedded", "embedded"]

EMBEDDED = {"fashion": "Fashion-MNIST: 10,000 training and 2,000 test images of 28x28 in grey, 10 classes"}
FOLDER = Path(__file__).parents[1] / "embedded"


def both_embedded(name: str) -> tuple[Arrays, Arrays]:
    """Read an embedded data set: training and test images.

    Raises:
        UnknownName: there is no such data set.
    """
    return embedded(name, "train"), embedded(name, "test")


def embedded(name: str, split: str) -> Arrays:
    """Read a split, "train" or "test", of an embedded data set.

    Raises:
        UnknownName: there is no such data set.
    """
    if name not in EMBEDDED:
        raise UnknownName("embedded data set", name, EMBEDDED)
    return from_npz([FOLDER / f"{name}_{split}.npz"])
