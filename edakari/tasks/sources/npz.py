"""Labelled images of .npz files, read safely: headers are checked before any content is read."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edakari.core.reading import Unreadable, require_regular
from edakari.errors import DataError
from edakari.tasks.sources.arrays import Arrays, Labels

__all__ = ["CLASSES", "from_npz", "read_arrays", "read_npz", "read_parts"]

CLASSES = 1_000_000
"""That data may have: the last layer of a network for so many has a billion weights, and each class gets a name."""
HEADER = 10_000
"""Bytes of the header of an array; ours have a hundred. numpy evaluates it, in time that grows quickly."""


def from_npz(paths: Sequence[str | Path], classes: Sequence[str] | None = None) -> Arrays:
    """Read images and labels of .npz files, concatenated.

    Each file holds `images`, uint8 [N, H, W, C] or [N, H, W], and `labels`, integers [N]; `class_names` may be there.

    Args:
        paths: the files.
        classes: names of the classes; None takes the names in the files, or numbers.

    Raises:
        DataError: a file is missing, damaged, empty or of another form, its labels have no class, or all have one.
    """
    where = ", ".join(str(path) for path in paths)
    parts = read_parts(paths)
    labels = np.concatenate(
        [_classes_in(Path(path), len(part[0]), part[1]) for path, part in zip(paths, parts, strict=True)]
    )
    images = parts[0][0] if len(parts) == 1 else np.concatenate([part[0] for part in parts])
    names = tuple(classes or parts[0][2] or (str(number) for number in range(int(labels.max()) + 1)))
    if labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"{where}: labels range over {labels.min()} to {labels.max()}, but there are {len(names)} classes (0 to "
            f"{len(names) - 1})"
        )
    if len(np.unique(labels)) < 2:
        raise DataError(f"{where}: all {len(labels)} labels are {labels[0]}; there is only one class to tell apart")
    return Arrays(images, labels, names)


def read_parts(
    paths: Sequence[str | Path],
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[Any], tuple[str, ...]]]:
    """What `from_npz` finds in each of some files, whose images are of one size.

    Raises:
        DataError: see `from_npz`, or the images differ in size.
    """
    parts = [read_npz(Path(path)) for path in paths]
    shapes = {images.shape[1:] for images, _, _ in parts}
    if len(shapes) > 1:
        where = ", ".join(str(path) for path in paths)
        raise DataError(f"{where}: the files' images differ in size: {sorted(shapes)}")
    return parts


def read_npz(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any], tuple[str, ...]]:
    """Images, uint8 [N, H, W, C], labels as they are, and names of classes where there are some, of an .npz file.

    Raises:
        DataError: the file is missing, damaged or empty, says that it holds more than there is or fits into memory, or
            its images are of another form.
    """
    found = read_arrays(path, ("images", "labels"))
    return found["images"], found["labels"], tuple(str(name) for name in found.get("class_names", ()))


def read_arrays(path: Path, needed: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of an .npz file by name, and `class_names` if it is there.

    Args:
        path: the file.
        needed: names of the arrays; "images" becomes uint8 [N, H, W, C], others are as they are.

    Raises:
        DataError: see `read_npz`, or an array is missing.
    """
    if not path.exists():
        raise DataError(f"data file {str(path)!r}: there is no such file")
    try:
        require_regular(path)
        found = _arrays(path, needed)
    except (DataError, Unreadable) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except Exception as error:
        # zipfile, zlib and numpy meet damaged files with errors of every kind
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path} cannot be read as .npz without pickle ({said})") from error
    images = found["images"]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: `images` must be uint8 [N, H, W, C] with C of 1 or 3, found {images.dtype} {list(images.shape)}"
        )
    if not images.size:
        raise DataError(f"{path}: it has no images" if not len(images) else f"{path}: its images have no pixels")
    return {**found, "images": images}


def _classes_in(path: Path, images: int, labels: npt.NDArray[Any]) -> Labels:
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (images,):
        hint = {2: "; for several classes an image set data.task to multilabel"}.get(labels.ndim, "")
        hint = "; for a label at every pixel set data.task to segmentation" if labels.ndim == 3 else hint
        raise DataError(
            f"{path}: `labels` must be integers [{images}], one for each image, found {labels.dtype} "
            f"{list(labels.shape)}{hint}"
        )
    if labels.size and labels.max() >= CLASSES:
        raise DataError(f"{path}: a label is {labels.max()}; at most {CLASSES:,} classes are counted, from 0 on")
    return labels.astype(np.int64)


def _arrays(path: Path, needed: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays that data has, after a look at what each is said to be."""
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        missing = [key for key in needed if key not in members]
        if missing:
            raise Unreadable(f"it has no {missing}, only {sorted(members)[:8]}; {' and '.join(needed)} are needed")
        wanted = {name: members[name] for name in (*needed, "class_names") if name in members}
        size, memory = sum(info.file_size for info in wanted.values()), _memory()
        if size > memory:
            raise Unreadable(
                f"it unpacks to {size / 1e9:,.0f} GB, and this machine has {memory / 1e9:,.0f} GB of memory"
            )
        found = {}
        for name, info in wanted.items():
            with archive.open(info) as file:
                _check_header(name, file, info.file_size)
            with archive.open(info) as file:
                found[name] = np.lib.format.read_array(file, allow_pickle=False, max_header_size=HEADER)
    return found


def _check_header(name: str, file: IO[bytes], size: int) -> None:
    """Raise an error for an array whose header does not fit its data."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
    shape, _, dtype = read(file, max_header_size=HEADER)
    if dtype.hasobject:
        raise Unreadable(f"`{name}` holds pickled objects, which are not read; save numbers or texts")
    if name == "class_names" and (len(shape) != 1 or shape[0] > CLASSES):
        raise Unreadable(f"`class_names` must be a list of at most {CLASSES:,} names, found the shape {list(shape)}")
    says, has = math.prod(shape) * dtype.itemsize, size - file.tell()
    if says != has or min(shape, default=0) < 0:
        raise Unreadable(f"`{name}` says that it is {dtype} {list(shape)}, {says:,} bytes, but {has:,} follow")


def _memory() -> int:
    """Bytes of memory of this machine; where it does not say, as many as there may be."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63
