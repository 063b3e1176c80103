"""Lists of images that a folder has for its splits, and what can be told of images without decoding them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.core.reading import Unreadable, because, read_text
from edakari.errors import DataError
from edakari.tasks.sources.packed import Packed
from edakari.tasks.sources.together import read_once

__all__ = ["IMAGES", "TRAIN", "VAL", "first_there", "image_files", "image_names", "read_lines", "sizes_on_disk"]

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
"""Suffixes of images in folders."""
TRAIN, VAL = ("train", "training"), ("val", "valid", "validation")
"""Names of the splits in the folders of all formats."""
LIST_BYTES = 256 * 2**20
READERS = 8
"""Threads that read the headers of images: a network drive answers late, but many at once."""


def read_lines(path: Path, where: str) -> list[str]:
    """Read the lines of a text file that are not empty, without white space around them.

    Args:
        path: the file.
        where: the source, as the subject of a sentence.

    Raises:
        DataError: the file is missing or is not UTF-8.
    """
    try:
        text = read_text(path, LIST_BYTES)
    except (OSError, Unreadable) as error:
        raise DataError(f"{where}: {path} cannot be read: {because(error)}") from error
    return [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]


def image_files(folder: Path, suffixes: Sequence[str] = IMAGES) -> list[str]:
    """Return the paths of all images in a folder and its subfolders, relative to it, sorted; none without the folder.

    Raises:
        DataError: a folder cannot be read.
    """
    if not folder.is_dir():
        return []
    return read_once(lambda: [os.fsdecode(name) for name in sorted(image_names(folder, suffixes))])


def image_names(folder: Path, suffixes: Sequence[str] = IMAGES) -> list[bytes]:
    """Return the paths of all images in a folder and its subfolders, relative to it, as bytes and in no order.

    Files and subfolders whose names start with a dot are left out, and so are subfolders that are links.

    Raises:
        DataError: a folder cannot be read.
    """
    endings, found, left = tuple(map(os.fsencode, suffixes)), [], [b""]
    while left:
        inside = left.pop()
        path = os.path.join(os.fsencode(folder), inside)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(b"."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        left.append(inside + name + b"/")
                    elif name.lower().endswith(endings):
                        found.append(inside + name)
        except OSError as error:
            raise DataError(f"folder {os.fsdecode(path)!r} cannot be read: {because(error)}") from error
    return found


def first_there(paths: Iterable[Path]) -> Path | None:
    """Return the first of these files or folders that exists."""
    return next((path for path in paths if path.exists()), None)


def sizes_on_disk(root: Path, files: Packed | Sequence[str]) -> npt.NDArray[np.int32]:
    """Read height and width of images from their headers, int32 [N, 2]; -1 where the file is missing or unreadable.

    Args:
        root: folder that the paths are relative to.
        files: paths of the images.
    """
    with needs("train", "reading images"):
        from edakari.tasks.images import image_size

    def size(index: int) -> tuple[int, int]:
        file = files.text(index) if isinstance(files, Packed) else files[index]
        try:
            return image_size(root / file)
        except DataError:
            return -1, -1

    def sizes() -> npt.NDArray[np.int32]:
        with ThreadPoolExecutor(READERS) as pool:
            return np.array(list(pool.map(size, range(len(files)))), np.int32).reshape(-1, 2)

    return read_once(sizes)
