"""Pascal VOC: boxes from XML files; label maps are in `voc_maps`. `voc:FOLDER`, or the only such folder in it:

    Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/{train,val}.txt    (VOC's own)
    train/NAME.xml, train/NAME.jpg, valid/NAME.xml, valid/NAME.jpg               (exports of labelling tools)

Coordinates are taken as they are written, as torchvision does. Difficult objects have `iscrowd`. Classes are the sorted
names of the training objects, or the lines of `classes.txt` or `labels.txt`.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from edakari.core.reading import Unreadable, because
from edakari.errors import DataError
from edakari.tasks.sources.checking import annotated, labels_by_name
from edakari.tasks.sources.examples import Examples, Wanted
from edakari.tasks.sources.listing import IMAGES, TRAIN, VAL, first_there, read_lines, sizes_on_disk
from edakari.tasks.sources.mending import Fault
from edakari.tasks.sources.objects import AnnotatedImages, Listed, Row, Rows
from edakari.tasks.sources.packed import Packed
from edakari.tasks.sources.voc_maps import voc_maps
from edakari.tasks.sources.xml_files import read_xml

__all__ = ["voc"]

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read a folder of Pascal VOC's form.

    Args:
        argument: the folder.
        wanted: what the task asks for: boxes, or a class at every pixel.

    Raises:
        DataError: nothing of this form is there, a file is damaged, or it lacks what is wanted.
    """
    if wanted.target == "map":
        return voc_maps(Path(argument), wanted)
    if wanted.target != "boxes":
        raise DataError(f"Pascal VOC has boxes and label maps, but no {wanted.target}; use COCO JSON for these")
    folder = Path(argument)
    train = _split(folder, TRAIN)
    if train is None:
        raise DataError(
            f"VOC folder {str(folder)!r}: no Annotations/ with XML files is in it or in one folder in it, and no "
            "train/ with XML files and images; lists are ImageSets/Main/train.txt and val.txt"
        )
    first = _read(train, wanted)
    val = _split(folder, VAL)
    return first, _read(val, wanted.like(first)) if val else None


@dc.dataclass(frozen=True)
class _Split:
    """The files of a split: XML files, and image files by stem."""

    folder: Path
    annotations: str
    images: str
    names: Sequence[str]


@dc.dataclass(frozen=True)
class _Thing:
    """An object as the XML file has it."""

    name: str
    box: tuple[float, ...]
    difficult: bool
    fault: int


def _split(folder: Path, names: Sequence[str]) -> _Split | None:
    """Where a split lies; None where the folder has none of these names."""
    homes = [home for home in (folder, *_folders(folder)) if (home / "Annotations").is_dir()]
    if len(homes) > 1 and homes[0] != folder:
        raise DataError(f"VOC folder {str(folder)!r} has several data sets: {[home.name for home in homes]}; name one")
    if homes:
        home = homes[0]
        lists = home / "ImageSets" / "Main"
        listed = first_there(lists / f"{name}.txt" for name in names)
        if listed is not None:
            # VOC's lists of one class have a second column
            stems = [line.split()[0] for line in read_lines(listed, f"VOC folder {str(home)!r}")]
            return _Split(home, "Annotations", "JPEGImages", stems)
        if first_there(lists / f"{name}.txt" for name in (*TRAIN, *VAL)) or names != TRAIN:
            return None
        images = first_there(home / name for name in ("JPEGImages", "images")) or home / "JPEGImages"
        return _Split(home, "Annotations", images.name, _stems(home / "Annotations"))
    found = first_there(folder / name for name in names)
    return _Split(found, ".", ".", _stems(found)) if found and _stems(found) else None


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _stems(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.xml"))


def _read(split: _Split, wanted: Wanted) -> AnnotatedImages:
    where = f"VOC annotations {str(split.folder / split.annotations)!r}"
    files, sizes, things = [], [], []
    on_disk = _by_stem(split.folder / split.images)
    for name in split.names:
        path = split.folder / split.annotations / f"{name}.xml"
        try:
            root = read_xml(path)
        except (OSError, Unreadable) as error:
            raise DataError(f"{where}: {path} cannot be read: {because(error)}") from error
        files.append(f"{split.images}/{on_disk.get(name) or _text(root, 'filename') or name}".removeprefix("./"))
        sizes.append([_whole(_text(root, f"size/{side}")) for side in ("height", "width")])
        things.append([_thing(each) for each in root.iter("object")])
    classes = _classes(where, split.folder, things, wanted)
    labels = labels_by_name(where, classes, wanted)
    rows = Rows()
    for image, each in enumerate(things):
        for thing in each:
            label, remark = labels.get(thing.name, -1), f"class {thing.name!r}" if thing.name not in labels else ""
            rows.add(Row(image, label, thing.box, crowd=thing.difficult, fault=thing.fault, remark=remark))
    packed, shapes = Packed.texts(files), np.array(sizes, np.int32).reshape(-1, 2)
    unknown = np.flatnonzero((shapes <= 0).any(1))
    shapes[unknown] = sizes_on_disk(split.folder, packed.take(unknown))
    names = wanted.classes or tuple(classes)
    return annotated(Listed(where, split.folder, packed, shapes, np.arange(len(files)), names), rows, wanted)


def _classes(where: str, folder: Path, things: list[list[_Thing]], wanted: Wanted) -> list[str]:
    """The classes in order: those wanted, those of a list, or the sorted names of the objects."""
    if wanted.classes:
        return list(wanted.classes)
    listed = first_there(base / name for base in (folder, folder.parent) for name in ("classes.txt", "labels.txt"))
    if listed is not None:
        return read_lines(listed, where)
    found = sorted({thing.name for each in things for thing in each if thing.name})
    if not found:
        raise DataError(f"{where}: none of its {len(things):,} images has an annotated object")
    return found


def _thing(element: Element) -> _Thing:
    texts = [_text(element, f"bndbox/{corner}") for corner in CORNERS]
    try:
        box, fault = tuple(float(text) for text in texts), Fault.NONE
    except ValueError:
        box, fault = (0.0,) * 4, Fault.NO_BOX
    return _Thing(_text(element, "name"), box, _text(element, "difficult") == "1", fault)


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _by_stem(folder: Path) -> dict[str, str]:
    """Names of image files by their stem."""
    if not folder.is_dir():
        return {}
    return {file.stem: file.name for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGES}
