"""Labelled images on the disk: a folder with one subfolder for each class."""

from __future__ import annotations

import dataclasses as dc
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.errors import DataError
from edakari.tasks.sources.listing import IMAGES, image_names
from edakari.tasks.sources.packed import Packed
from edakari.tasks.sources.together import read_once

__all__ = ["Files", "from_folder"]


@dc.dataclass(frozen=True, eq=False)
class Files:
    """Images on the disk, read on access, in colour.

    Args:
        root: folder that the paths are relative to.
        names: paths of the images.
        labels: labels, int64 [N]; numbers, float32 [N, K].
        classes: name of each class; empty where images have numbers.
    """

    root: Path
    names: Packed
    labels: npt.NDArray[Any]
    classes: tuple[str, ...]

    def take(self, indices: npt.NDArray[np.int64]) -> Files:
        """The images at these indices, in their order."""
        return dc.replace(self, names=self.names.take(indices), labels=self.labels[indices])

    def path(self, index: int) -> Path:
        """Path of one image."""
        return self.root / self.names.text(index)

    def pixels(self, index: int) -> torch.Tensor:
        """Read one image by `read_tensor`: uint8 [1 or 3, H, W], or float32 [1, H, W] from 0 to 1.

        Raises:
            DataError: the file cannot be read or represented; the message names it.
        """
        from edakari.tasks.images import read_tensor

        return read_tensor(self.path(index))

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return 3

    def identity(self) -> bytes:
        """Bytes by which data sets are told apart: the names of the files in the folder, without their content."""
        return self.names.starts.astype(np.int64).tobytes() + self.names.data.tobytes()


def from_folder(path: str | Path, classes: Sequence[str] | None = None) -> Files:
    """Read the images of a folder that has one subfolder for each class.

    Args:
        path: the folder.
        classes: the required classes, in order of their labels; None takes the sorted names of the subfolders.

    Raises:
        DataError: no folder, no class, only one, one without images, or other classes than asked for.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"image folder {str(path)!r}: there is no such folder")
    found = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(found) < 2:
        raise DataError(
            f"image folder {str(path)!r} has {len(found)} class folders ({', '.join(found) or 'it is empty'}); "
            "it needs two or more, each with the images of one class"
        )
    if classes is not None and set(found) != set(classes):
        extra, missing = sorted(set(found) - set(classes)), sorted(set(classes) - set(found))
        raise DataError(
            f"image folder {str(path)!r} has other classes than the training data: "
            f"missing {missing[:4]}, unknown {extra[:4]}"
        )
    names = tuple(classes or found)
    files, counts = read_once(lambda: _listed(path, names))
    return Files(path, files, np.repeat(np.arange(len(names)), counts), names)


def _listed(path: Path, names: Sequence[str]) -> tuple[Packed, list[int]]:
    """The images in the folders of all classes, and the number of images in each."""
    counts: list[int] = []

    def groups() -> Iterator[tuple[bytes, list[bytes]]]:
        for name in names:
            images = sorted(image_names(path / name))
            if not images:
                raise DataError(f"image folder {str(path / name)!r} has no images ({', '.join(IMAGES)})")
            counts.append(len(images))
            yield os.fsencode(name) + b"/", images

    return Packed.behind(groups()), counts
