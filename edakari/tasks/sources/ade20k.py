"""ADE20K of the scene parsing benchmark: 150 classes. `ade20k:FOLDER`, the folder or the only one in it, looks like

    images/{training,validation}/NAME.jpg, annotations/{training,validation}/NAME.png, objectInfo150.txt

Maps store 0 for everything else, which does not count, and classes from 1 on, which become labels from 0 on. Names are
those of `objectInfo150.txt`; without it they are numbers.
"""

from __future__ import annotations

from pathlib import Path

from edakari.errors import DataError
from edakari.tasks.sources.examples import Examples, Wanted
from edakari.tasks.sources.label_maps import MappedImages, Numbering, Pairs, mapped, require_map
from edakari.tasks.sources.listing import image_files, read_lines

__all__ = ["ade20k"]

COUNT = 150
"""Number of classes of the benchmark."""


def ade20k(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read ADE20K's folder.

    Args:
        argument: the folder with `images` and `annotations`.
        wanted: what the task asks for: a class at every pixel.

    Raises:
        DataError: nothing of this form is there, or it lacks what is wanted.
    """
    require_map("ADE20K", wanted)
    root = next((each for each in _candidates(Path(argument)) if (each / "annotations" / "training").is_dir()), None)
    if root is None:
        raise DataError(
            f"ADE20K folder {argument!r}: there is no annotations/training in it nor in a folder in it, such as "
            "ADEChallengeData2016"
        )
    first = _read(root, "training", wanted)
    val = (root / "annotations" / "validation").is_dir()
    return first, _read(root, "validation", wanted.like(first)) if val else None


def _candidates(folder: Path) -> list[Path]:
    return [folder, *sorted(each for each in folder.iterdir() if each.is_dir())] if folder.is_dir() else []


def _read(root: Path, split: str, wanted: Wanted) -> MappedImages:
    where = f"ADE20K folder {str(root)!r}, split {split}"
    files = image_files(root / "images" / split)
    images = [f"images/{split}/{file}" for file in files]
    maps = [f"annotations/{split}/{Path(file).with_suffix('.png').as_posix()}" for file in files]
    numbering = Numbering.of({0: -1, **{number: number - 1 for number in range(1, COUNT + 1)}})
    return mapped(Pairs(where, root, images, maps, _names(root, where), numbering), wanted)


def _names(root: Path, where: str) -> tuple[str, ...]:
    """The first name of each class in the benchmark's table, whose columns are separated by tabs."""
    table = root / "objectInfo150.txt"
    if not table.is_file():
        return tuple(str(number) for number in range(1, COUNT + 1))
    rows = [line.split("\t") for line in read_lines(table, where)]
    names = tuple(row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdigit())
    if len(names) != COUNT:
        raise DataError(f"{where}: {table} lists {len(names)} classes, not {COUNT}")
    return names
