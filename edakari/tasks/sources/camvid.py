"""Lists of images and label maps, as CamVid has them. `camvid:FOLDER`, the folder or the only one in it, looks like

    train.txt, val.txt      a line is IMAGE MAP, paths relative to the folder, to the one around it, or by their ends
    classes.txt             or label_colors.txt, class_dict.csv, labelmap.txt, codes.txt

A list of classes has a name a line, in order of the numbers in the maps; or a colour and a name, if maps are coloured:
"64 128 64 Animal", "Animal,64,128,64". Pixels of "void", "unlabelled" and "(ignore)" do not count.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from edakari.errors import DataError
from edakari.tasks.sources.class_lists import ClassList, read_class_list
from edakari.tasks.sources.examples import Examples, Wanted
from edakari.tasks.sources.label_maps import MappedImages, Pairs, mapped, require_map
from edakari.tasks.sources.listing import TRAIN, VAL, first_there, read_lines

__all__ = ["CLASS_LISTS", "camvid"]

CLASS_LISTS = ("classes.txt", "label_colors.txt", "class_dict.csv", "labelmap.txt", "codes.txt")
"""Names of files that list classes."""


def camvid(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read a folder with lists of images and label maps.

    Args:
        argument: the folder.
        wanted: what the task asks for: a class at every pixel.

    Raises:
        DataError: nothing of this form is there, or it lacks what is wanted.
    """
    require_map("a list of images and label maps", wanted)
    outer = Path(argument)
    homes = [outer, *sorted(each for each in outer.iterdir() if each.is_dir())] if outer.is_dir() else []
    root = next((each for each in homes if first_there(each / f"{name}.txt" for name in TRAIN)), None)
    if root is None:
        raise DataError(
            f"folder {argument!r}: there is no train.txt in it nor in a folder in it; each of its lines is the path of "
            "an image and that of its label map"
        )
    where = f"folder {str(root)!r}"
    listed = first_there(base / name for base in (root, root.parent) for name in CLASS_LISTS)
    if listed is None:
        raise DataError(f"{where}: there is no list of classes in it; looked for {', '.join(CLASS_LISTS)}")
    classes = read_class_list(listed, where)
    lists = [first_there(root / f"{name}.txt" for name in names) for names in (TRAIN, VAL)]
    first = _read(root, lists[0] or root, classes, wanted)
    return first, _read(root, lists[1], classes, wanted.like(first)) if lists[1] else None


def _read(root: Path, listed: Path, classes: ClassList, wanted: Wanted) -> MappedImages:
    where = f"list {str(listed)!r}"
    pairs = [_pair(where, line) for line in read_lines(listed, where)]
    if not pairs:
        raise DataError(f"{where}: there are no images")
    images, maps = ([_found(root, file) for file in each] for each in zip(*pairs, strict=True))
    return mapped(Pairs(where, root, images, maps, classes.classes, classes.numbering), wanted)


def _pair(where: str, line: str) -> tuple[str, str]:
    """The two paths of a line; those with spaces are separated by a tab or a comma."""
    parts = next((parts for by in ("\t", ",", None) if len(parts := line.split(by)) == 2), None)
    if parts is None:
        raise DataError(f"{where}: a line is the path of an image and that of its label map, found {line[:80]!r}")
    return parts[0].strip(), parts[1].strip()


def _found(root: Path, file: str) -> str:
    """A path relative to the root: as it is, relative to the folder around, or by its last parts."""
    if (root / file).is_file():
        return file
    parts = PurePosixPath(file).parts
    ends = ["/".join(parts[first:]) for first in range(1, len(parts))]
    return next((end for end in ends if (root / end).is_file()), file)
