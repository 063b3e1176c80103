"""Lists of images that a folder has for its splits, and what can be told of images without decoding them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.core.reading import Unreadable, because, read_text
from edakari.errors import DataError
from edakari.tasks.sources.packed import Packed

__all__ = ["IMAGES", "TRAIN", "VAL", "first_there", "image_files", "read_lines", "sizes_on_disk"]

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
    """Return the paths of all images in a folder and its subfolders, relative to it, sorted."""
    found = (file for file in folder.rglob("*") if file.suffix.lower() in suffixes and not file.name.startswith("."))
    return sorted(file.relative_to(folder).as_posix() for file in found)


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

    with ThreadPoolExecutor(READERS) as pool:
        return np.array(list(pool.map(size, range(len(files)))), np.int32).reshape(-1, 2)
