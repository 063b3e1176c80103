"""Folders of images and label maps. `folder:FOLDER`, which looks like one of

    images/NAME.jpg, labels/NAME.png                                   (names in train.txt and val.txt, if there are)
    train/images/, train/labels/, val/images/, val/labels/

Label maps are lossless and store the number of each pixel's class, from 0 on. `classes.txt` names the classes, one a
line; without it every map is read once for the largest number.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from pathlib import Path

from edakari.errors import DataError
from edakari.tasks.sources.class_lists import ClassList, read_class_list
from edakari.tasks.sources.examples import Examples, Wanted
from edakari.tasks.sources.label_maps import MappedImages, Numbering, Pairs, largest_number, mapped, require_map
from edakari.tasks.sources.listing import TRAIN, VAL, first_there, image_files, read_lines

__all__ = ["Beside", "PairedFolder", "folder", "paired_folder"]


@dc.dataclass(frozen=True)
class Beside:
    """Maps that belong to images by their names.

    Args:
        folder: name of their folder.
        suffixes: suffixes of their files, in lower case.
        what: name of such a map, for errors.
        advice: what to put there, for errors.
    """

    folder: str
    suffixes: tuple[str, ...]
    what: str
    advice: str


LABELS = Beside(
    "labels",
    (".png", ".bmp", ".tif", ".tiff"),
    "label map",
    "label maps, PNG files with the number of each pixel's class,",
)
"""Label maps, in lossless formats."""


@dc.dataclass(frozen=True)
class PairedFolder:
    """The files of a split: images and maps of the same name.

    Args:
        root: folder that the paths are relative to.
        images: paths of the images.
        maps: paths of the maps.
        classes: the list of classes, if there is one.
    """

    root: Path
    images: Sequence[str]
    maps: Sequence[str]
    classes: Path | None


def folder(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read a folder of images and label maps.

    Args:
        argument: the folder.
        wanted: what the task asks for.

    Raises:
        DataError: nothing of this form is there, a file is damaged, or it lacks what is wanted.
    """
    require_map("a folder of images and label maps", wanted)
    train, val = paired_folder(Path(argument))
    first = _read(train, wanted)
    return first, _read(val, wanted.like(first)) if val else None


def paired_folder(root: Path, beside: Beside = LABELS) -> tuple[PairedFolder, PairedFolder | None]:
    """Find the images and maps of the splits.

    Args:
        root: the folder.
        beside: the maps.

    Raises:
        DataError: there are none, or no image has a map.
    """
    inner, other = (first_there(root / name for name in names) for names in (TRAIN, VAL))
    if inner is not None and inner.is_dir():
        found = _paired(inner, None, beside)
        return found, _paired(other, None, beside) if other is not None and other.is_dir() else None
    lists = [first_there(root / f"{name}.txt" for name in names) for names in (TRAIN, VAL)]
    first = _paired(root, lists[0], beside)
    return first, _paired(root, lists[1], beside) if lists[0] and lists[1] else None


def _paired(root: Path, listed: Path | None, beside: Beside) -> PairedFolder:
    where, folder_of_maps = f"folder {str(root)!r}", root / beside.folder
    if not (root / "images").is_dir() or not folder_of_maps.is_dir():
        raise DataError(
            f"{where} has no images/ and {beside.folder}/ in it; put {beside.advice} under the same names as their "
            "images, or both in train/ and val/"
        )
    images = {Path(file).with_suffix("").as_posix(): file for file in image_files(root / "images")}
    names = [Path(line).with_suffix("").as_posix() for line in read_lines(listed, where)] if listed else sorted(images)
    maps = {Path(file).with_suffix("").as_posix(): file for file in image_files(folder_of_maps, beside.suffixes)}
    without = [name for name in names if name not in maps or name not in images]
    if not names or len(without) == len(names):
        raise DataError(
            f"{where}: {len(without)} of {len(names)} images have no {beside.what} in {beside.folder}/ "
            f"({', '.join(beside.suffixes)}), such as {without[:3]}"
        )
    return PairedFolder(
        root,
        [f"images/{images.get(name, name)}" for name in names],
        [f"{beside.folder}/{maps.get(name, name)}" for name in names],
        first_there(base / "classes.txt" for base in (root, root.parent)),
    )


def _read(found: PairedFolder, wanted: Wanted) -> MappedImages:
    where = f"folder {str(found.root)!r}"
    there = [file for file in found.maps if (found.root / file).is_file()]
    if found.classes is not None:
        classes: ClassList = read_class_list(found.classes, where)
        pairs = Pairs(where, found.root, found.images, found.maps, classes.classes, classes.numbering)
    else:
        names = wanted.classes
        if names is None:
            count = largest_number(where, found.root, there, wanted.ignore_index) + 1
            names = tuple(str(number) for number in range(count))
        numbering = Numbering.of({label: label for label in range(len(names))})
        pairs = Pairs(where, found.root, found.images, found.maps, names, numbering)
    return mapped(pairs, wanted)
