"""Label maps of Pascal VOC: palette images with VOC's classes, or colours that `labelmap.txt` lists.

SegmentationClass/NAME.png, JPEGImages/NAME.jpg, ImageSets/Segmentation/{train,val}.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edakari.core.optional import needs
from edakari.errors import DataError
from edakari.tasks.sources.class_lists import read_class_list
from edakari.tasks.sources.examples import Examples, Wanted
from edakari.tasks.sources.label_maps import MappedImages, Numbering, Pairs, mapped
from edakari.tasks.sources.listing import TRAIN, VAL, first_there, image_files, read_lines

__all__ = ["voc_maps"]

LISTS = ("labelmap.txt", "classes.txt")


def voc_maps(folder: Path, wanted: Wanted) -> tuple[Examples, Examples | None]:
    """Read the label maps of a folder of Pascal VOC's form.

    Args:
        folder: the folder, or one with the only such folder in it.
        wanted: what the task asks for: a class at every pixel.

    Raises:
        DataError: nothing of this form is there, or it lacks what is wanted.
    """
    inner = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    root = next((each for each in (folder, *inner) if (each / "SegmentationClass").is_dir()), None)
    if root is None:
        raise DataError(f"VOC folder {str(folder)!r}: there is no SegmentationClass/ in it nor in a folder in it")
    where = f"VOC label maps {str(root / 'SegmentationClass')!r}"
    lists = [
        first_there(root / "ImageSets" / "Segmentation" / f"{name}.txt" for name in names) for names in (TRAIN, VAL)
    ]
    if lists[0] is None and lists[1] is not None:
        raise DataError(f"{where}: there is no ImageSets/Segmentation/train.txt beside {lists[1].name}")
    names = read_lines(lists[0], where) if lists[0] else [Path(each).stem for each in _images(root)]
    first = _read(root, where, names, wanted)
    return first, _read(root, where, read_lines(lists[1], where), wanted.like(first)) if lists[1] else None


def _images(root: Path) -> list[str]:
    return image_files(root / "SegmentationClass")


def _read(root: Path, where: str, names: Sequence[str], wanted: Wanted) -> MappedImages:
    by_stem = {Path(file).stem: file for file in image_files(root / "JPEGImages")}
    images = [f"JPEGImages/{by_stem.get(name, f'{name}.jpg')}" for name in names]
    maps = [f"SegmentationClass/{name}.png" for name in names]
    listed = first_there(root / name for name in LISTS)
    if listed is not None:
        found = read_class_list(listed, where)
        return mapped(Pairs(where, root, images, maps, found.classes, found.numbering), wanted)
    classes = _categories()
    numbering = Numbering.of({label: label for label in range(len(classes))}).ignoring(255)
    return mapped(Pairs(where, root, images, maps, classes, numbering), wanted)


def _categories() -> tuple[str, ...]:
    """VOC's classes with the background, as torchvision's networks have them."""
    with needs("train", "reading Pascal VOC"):
        from torchvision.models.segmentation import FCN_ResNet50_Weights
    names = FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    return tuple(name.strip("_") for name in names)
