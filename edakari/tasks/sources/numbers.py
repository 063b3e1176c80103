"""Images with one or several numbers each: `.npz` arrays, tables (.csv) with image files, map-style data sets."""

from __future__ import annotations

import csv
import dataclasses as dc
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.reading import read_text
from edakari.core.user_code import made_by, names_file
from edakari.errors import DataError
from edakari.tasks.sources.arrays import Arrays
from edakari.tasks.sources.folders import Files
from edakari.tasks.sources.mapped import Mapped, item_of, picture_of
from edakari.tasks.sources.npz import read_parts
from edakari.tasks.sources.packed import Packed

__all__ = ["Numbered", "numbered_dataset", "numbered_sources"]

Numbers = npt.NDArray[np.float32]
TABLE_BYTES = 1 << 30
NUMBERS = "numbers"


@dc.dataclass(frozen=True)
class Numbered:
    """Images with numbers.

    Args:
        images: the images; their labels are float32 [N, K].
        names: name of each of the K numbers.
    """

    images: Arrays | Files | Mapped
    names: tuple[str, ...]


def numbered_sources(source: str, train: Sequence[str], val: str | None) -> tuple[Numbered, Numbered | None]:
    """Read images with numbers.

    Args:
        source: "path/to/file.py:NAME", an .npz or .csv file, or a folder with `train.csv` and, if there is one,
            `val.csv`.
        train: .npz or .csv files, which take the place of `source`.
        val: validation data, an .npz or .csv file.

    Raises:
        DataError: the data is missing, damaged, of another form, or has other numbers in validation.
    """
    held: Numbered | None = None
    if not train and names_file(source):
        found, held = _from_code(source)
    elif not train and Path(source).is_dir():
        found = _read((str(Path(source) / "train.csv"),))
        held = _read((str(Path(source) / "val.csv"),)) if (Path(source) / "val.csv").is_file() else None
    else:
        found = _read(tuple(train) or (source,))
    held = _read((val,)) if val is not None else held
    if held is not None and len(held.names) != len(found.names):
        raise DataError(
            f"the training data has {len(found.names)} numbers for each image ({', '.join(found.names[:8])}), the "
            f"validation data {len(held.names)} ({', '.join(held.names[:8])})"
        )
    return found, held


def _read(paths: tuple[str, ...]) -> Numbered:
    if all(path.endswith(".npz") for path in paths):
        return _from_npz(paths)
    if all(path.endswith(".csv") for path in paths):
        return _from_tables(tuple(map(Path, paths)))
    raise DataError(
        f"data.task regression reads .npz files (`images`, `labels`), .csv tables (file, then numbers) or "
        f"path/to/file.py:NAME, found {list(paths)}"
    )


def _from_npz(paths: tuple[str, ...]) -> Numbered:
    where, parts = ", ".join(paths), read_parts(paths)
    labels = [_numbers(numbers, len(images), where, "`labels`") for images, numbers, _ in parts]
    if len({each.shape[1] for each in labels}) > 1:
        raise DataError(f"{where}: the files have {sorted({each.shape[1] for each in labels})} numbers for each image")
    values = np.concatenate(labels)
    return Numbered(
        Arrays(np.concatenate([images for images, _, _ in parts]), values, ()), _names(parts[0][2], values.shape[1])
    )


def _numbers(found: Any, count: int, where: str, what: str) -> Numbers:
    """Numbers as float32 [N, K]; none may be missing."""
    values = np.asarray(found)
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype.kind not in "fiub" or values.ndim != 2 or len(values) != count or not values.shape[1]:
        raise DataError(
            f"{where}: {what} must be numbers, [{count}] or [{count}, K], one row for each image, found "
            f"{np.asarray(found).dtype} {list(np.asarray(found).shape)}"
        )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(values).all(1))
    if len(wrong):
        raise DataError(
            f"{where}: {what} of {len(wrong)} images are not finite in float32; the first is image {wrong[0]} with "
            f"{values[wrong[0]].tolist()}"
        )
    return values


def _names(given: Sequence[str], count: int) -> tuple[str, ...]:
    if len(given) == count:
        return tuple(given)
    return ("value",) if count == 1 else tuple(f"value_{index}" for index in range(count))


def _from_tables(paths: tuple[Path, ...]) -> Numbered:
    files: list[Path] = []
    rows: list[list[float]] = []
    names: tuple[str, ...] = ()
    for path in paths:
        found, own, header = _table(path)
        if rows and own and len(own[0]) != len(rows[0]):
            raise DataError(f"{path} has {len(own[0])} numbers a line, {paths[0]} has {len(rows[0])}")
        files, rows, names = files + found, rows + own, names or header
    where = ", ".join(map(str, paths))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{where}: {len(missing)} of {len(files)} images are missing; the first is {str(missing[0])!r}")
    values = _numbers(np.array(rows), len(files), where, "numbers")
    return Numbered(Files(Path(), Packed.texts(map(str, files)), values, ()), _names(names, values.shape[1]))


def _table(path: Path) -> tuple[list[Path], list[list[float]], tuple[str, ...]]:
    """Files, numbers and names of the numbers, which a first line may give; files are relative to the table."""
    try:
        text = read_text(path, TABLE_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(f"table {str(path)!r} cannot be read: {error}") from error
    lines = [(number, line) for number, line in enumerate(csv.reader(io.StringIO(text)), 1) if line]
    names: tuple[str, ...] = ()
    if lines and not _are_numbers(lines[0][1][1:]):
        names, lines = tuple(name.strip() for name in lines[0][1][1:]), lines[1:]
    if not lines:
        raise DataError(f"table {str(path)!r} has no images; each line is a file, then its numbers")
    width = len(lines[0][1])
    for number, line in lines:
        if len(line) != width or width < 2 or not _are_numbers(line[1:]):
            raise DataError(
                f"table {str(path)!r}, line {number}: a line is a file and {max(1, width - 1)} numbers, found {line!r}"
            )
    files = [path.parent / line[0].strip() for _, line in lines]
    return files, [[float(value) for value in line[1:]] for _, line in lines], names


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        return bool([float(value) for value in values])
    except ValueError:
        return False


def _from_code(name: str) -> tuple[Numbered, Numbered | None]:
    where = f"data set {name!r}"
    made = made_by(name, where, "data set", DataError)
    train, val = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    return numbered_dataset(train, where), None if val is None else numbered_dataset(val, f"{where} (validation)")


def numbered_dataset(dataset: Any, where: str) -> Numbered:
    """Check a map-style data set; its attribute `targets` or `values`, if there is one, spares reading every image.

    Args:
        dataset: the data set; an item is an image, and a number or a list of numbers.
        where: the data set, as the subject of a sentence.

    Raises:
        DataError: it has no length or no items, or an item is of another form.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{where}: a map-style data set is needed, with a length and items by index, but {type(dataset).__name__} "
            "is none"
        )
    if not len(dataset):
        raise DataError(f"{where}: it is empty")
    first = picture_of(item_of(dataset, 0, where, NUMBERS)[0], f"{where}, item 0")
    known = next((getattr(dataset, name) for name in ("targets", "values") if hasattr(dataset, name)), None)
    if known is None or callable(known):
        known = np.stack(
            [_row(item_of(dataset, index, where, NUMBERS)[1], where, index) for index in range(len(dataset))]
        )
    values = _numbers(np.asarray(known), len(dataset), where, "numbers")
    found = Mapped(dataset, np.arange(len(dataset)), values, (), 3 if first.mode == "RGB" else 1, where)
    return Numbered(found, _names(tuple(map(str, getattr(dataset, "names", ()))), values.shape[1]))


def _row(value: Any, where: str, index: int) -> npt.NDArray[Any]:
    row = np.atleast_1d(np.asarray(value))
    if row.ndim != 1 or row.dtype.kind not in "fiub":
        raise DataError(f"{where}, item {index}: expected (image, a number or a list of numbers), found {value!r}")
    return row
