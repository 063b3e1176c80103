"""Labelled images from folders, arrays and the embedded data set, checked as they are read."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.core.registry import Registry
from edakari.core.user_code import names_file
from edakari.errors import DataError, UnknownName
from edakari.tasks.npz import CLASSES, read_npz

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "EMBEDDED",
    "SOURCES",
    "Arrays",
    "Files",
    "Labels",
    "Source",
    "SourceReader",
    "embedded",
    "from_folder",
    "from_npz",
    "named_source",
    "read_parts",
]

Labels = npt.NDArray[np.int64]
EMBEDDED = {"fashion": "Fashion-MNIST: 10,000 training and 2,000 test images of 28x28 in grey, 10 classes"}
FOLDER = Path(__file__).parent / "embedded"


@dc.dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory.

    Args:
        images: images, uint8 [N, H, W, C].
        labels: labels, int64 [N]; multi-label 0 and 1 [N, classes]; per pixel [N, H, W].
        classes: name of each class.
    """

    images: npt.NDArray[np.uint8]
    labels: Labels
    classes: tuple[str, ...]

    def take(self, indices: npt.NDArray[np.int64]) -> Arrays:
        """The images at these indices, in their order."""
        return Arrays(self.images[indices], self.labels[indices], self.classes)

    def image(self, index: int) -> Image.Image:
        """Return one image as a PIL image, "L" or "RGB"."""
        with needs("train", "reading images"):
            from PIL import Image

        pixels = self.images[index]
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return int(self.images.shape[3])


@dc.dataclass(frozen=True, eq=False)
class Files:
    """Images on the disk, read on access, in colour.

    Args:
        paths: paths of the images.
        labels: labels, int64 [N].
        classes: name of each class.
    """

    paths: tuple[Path, ...]
    labels: Labels
    classes: tuple[str, ...]

    def take(self, indices: npt.NDArray[np.int64]) -> Files:
        """The images at these indices, in their order."""
        return Files(tuple(self.paths[index] for index in indices), self.labels[indices], self.classes)

    def image(self, index: int) -> Image.Image:
        """Read one image by `read_image`: "RGB", or "F" for grey of more than 8 bits.

        Raises:
            DataError: the file cannot be read or represented; the message names it.
        """
        from edakari.tasks.images import read_image

        return read_image(self.paths[index])

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return 3


Source = Arrays | Files

SourceReader = Callable[[str], tuple[Source, Source | None]]
"""From what stands behind the colon of `data.source` to training data, and to validation data where there is some."""
SOURCES: Registry[SourceReader] = Registry(
    "source of data", "edakari.sources", {"embedded": "edakari.tasks.sources:both_embedded"}
)
"""Where labelled images come from, by the name in front of the colon of `data.source`. Image folders and .npz files are
known by their form."""


def named_source(text: str) -> tuple[Source, Source | None] | None:
    """Training and validation data of a source that is named; None where the text is a path.

    Args:
        text: "NAME", "NAME:ARGUMENT" or "path/to/file.py:name".

    Raises:
        DataError: the source gives something else.
        EdakariError: the file or package that offers the source cannot be used.
    """
    name, _, rest = (text, "", "") if names_file(text) else text.partition(":")
    if name not in SOURCES or Path(text).exists():
        return None
    found = SOURCES.named(name)(rest)
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Source)):
        raise DataError(
            f"the source of data {text!r} gave a {type(found).__name__}; it gives a pair: training data as `Arrays` or "
            "`Files`, and validation data or None"
        )
    return found


def both_embedded(name: str) -> tuple[Source, Source | None]:
    """Read an embedded data set: training and test images.

    Raises:
        UnknownName: there is no such data set.
    """
    return embedded(name, "train"), embedded(name, "test")


def from_folder(path: str | Path, classes: Sequence[str] | None = None) -> Files:
    """Read the images of a folder that has one subfolder for each class.

    Args:
        path: the folder.
        classes: the required classes, in order of their labels; None takes the sorted names of the subfolders.

    Raises:
        DataError: no folder, no class, only one, one without images, or other classes than asked for.
    """
    with needs("train", "reading images"):
        # here, for torchvision takes seconds to import
        from torchvision.datasets.folder import IMG_EXTENSIONS

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
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        images = sorted(file for file in (path / name).rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
        if not images:
            raise DataError(f"image folder {str(path / name)!r} has no images ({', '.join(IMG_EXTENSIONS)})")
        paths += images
        labels += [label] * len(images)
    return Files(tuple(paths), np.array(labels, np.int64), names)


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


def embedded(name: str, split: str) -> Arrays:
    """Read a split, "train" or "test", of an embedded data set.

    Raises:
        UnknownName: there is no such data set.
    """
    if name not in EMBEDDED:
        raise UnknownName("embedded data set", name, EMBEDDED)
    return from_npz([FOLDER / f"{name}_{split}.npz"])


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
