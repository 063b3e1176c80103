"""WebDataset shards: `webdataset:FOLDER` with train*.tar and val*.tar, or `webdataset:PATTERN` of one split.

A pattern is a path with `*`, or with a range, such as shards/train-{000..012}.tar. Files of a sample follow one another
and differ by what follows the first dot: an image (`jpg`, `png`, ...) and its annotation, which is one of

    json                                         {"boxes": [[left, top, right, bottom], ...], "labels": [...]}
    map.png, mask.png, seg.png or label.png      numbers of classes

The JSON may have `masks` (polygons or run-length codes, as COCO has them), `keypoints` [n][K][3], `area`, `iscrowd` and
`image_id`; labels are numbers or names. `classes.txt` beside the shards lists the classes. Shards are indexed once by
their headers and read at random, so they must not be compressed.
"""

from __future__ import annotations

import dataclasses as dc
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.core.reading import JSON_BYTES, Unreadable, because, parse_json
from edakari.errors import DataError
from edakari.tasks.sources.class_lists import ClassList, read_class_list
from edakari.tasks.sources.converting import Converter
from edakari.tasks.sources.examples import Examples, Wanted, at_index
from edakari.tasks.sources.label_maps import Numbering
from edakari.tasks.sources.listing import IMAGES, TRAIN, VAL, first_there
from edakari.tasks.sources.masks import decoded, polygon_bytes, rle_bytes
from edakari.tasks.sources.packed import Packed

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["ShardImages", "bytes_at", "samples_of", "shards_in", "webdataset"]

MAPS = ("map.png", "mask.png", "seg.png", "label.png")
IMAGE_BYTES = 512 * 2**20
"""Largest image file; the largest image that is read has as many pixels."""
SHARDS = 100_000
"""Largest number of shards that a range names."""


def webdataset(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read WebDataset shards.

    Args:
        argument: a folder, or a pattern of the shards of one split.
        wanted: what the task asks for.

    Raises:
        DataError: there are no shards, one is damaged or compressed, or they lack what is wanted.
    """
    train, val = shards_in(argument)
    first = _read(argument, train, wanted)
    return first, _read(f"{argument} (validation)", val, wanted.like(first)) if val else None


def shards_in(argument: str) -> tuple[list[Path], list[Path]]:
    """Return the shards of the training and of the validation split.

    Args:
        argument: a folder, or a pattern of the shards of one split.

    Raises:
        DataError: there are no shards.
    """
    folder = Path(argument)
    if not folder.is_dir():
        return _expanded(argument), []
    shards = [[path for name in names for path in sorted(folder.glob(f"{name}*.tar"))] for names in (TRAIN, VAL)]
    # "train" begins "training", and "val" begins "validation"
    train, val = (list(dict.fromkeys(each)) for each in shards)
    if not train:
        raise DataError(
            f"WebDataset folder {argument!r}: there are no shards train*.tar in it, perhaps val*.tar beside"
        )
    return train, val


@dc.dataclass(frozen=True, eq=False)
class ShardImages:
    """Images in uncompressed tar files; see `edakari.tasks.sources.examples.Examples`.

    Args:
        shards: the tar files.
        keys: name of each sample.
        places: shard, start and size of the image, and start and size of the annotation, int64 [N, 5].
        convert: conversion of items.
        numbering: labels of what label maps store; None without label maps.
        joints: names of the keypoints.
        notes: what a reader of the results should know about the data.
    """

    shards: tuple[Path, ...]
    keys: Packed
    places: npt.NDArray[np.int64]
    convert: Converter
    numbering: Numbering | None = None
    joints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in order of the labels."""
        return self.convert.classes

    def __len__(self) -> int:
        return len(self.keys)

    def labels_of(self, index: int) -> npt.NDArray[np.int64] | None:
        """Labels of an image's objects, int64 [n]; None for label maps."""
        if self.numbering is not None:
            return None
        return np.array(self._annotation(at_index(index, len(self)))["labels"], np.int64).reshape(-1)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading annotated images"):
            from edakari.tasks.images import Held, read_label_map, read_pixels

        index = at_index(index, len(self))
        image = read_pixels(Held(self._name(index), self._bytes(index, 1, IMAGE_BYTES)))
        if self.numbering is None:
            return self.convert((image, self._target(index, (int(image.shape[1]), int(image.shape[2])))), index)
        name = f"{self._name(index)}, map"
        stored = read_label_map(Held(name, self._bytes(index, 3, IMAGE_BYTES)))
        try:
            labels = self.numbering(stored, self.convert.wanted.ignore_index)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        return self.convert((image, {"map": labels}), index)

    def _name(self, index: int) -> str:
        return f"{self.shards[self.places[index, 0]]}: {self.keys.text(index)}"

    def _bytes(self, index: int, column: int, most: int) -> bytes:
        """The file whose start and size stand in a column of `places` and the next."""
        path, (start, size) = self.shards[self.places[index, 0]], self.places[index, column : column + 2]
        if size > most:
            raise DataError(f"{self._name(index)}: a file has {size:,} bytes; at most {most:,} are read")
        return bytes_at(path, int(start), int(size), self._name(index))

    def _annotation(self, index: int) -> dict[str, Any]:
        """The JSON of a sample, with numbers as labels."""
        try:
            found = parse_json(self._bytes(index, 3, JSON_BYTES).decode("utf-8"))
            if not isinstance(found, dict) or not isinstance(found.get("labels"), list):
                raise Unreadable("it is no mapping with `boxes` and `labels`")
        except (Unreadable, UnicodeDecodeError) as error:
            raise DataError(f"{self._name(index)}: its JSON cannot be read: {because(error)}") from error
        numbers = {name: label for label, name in enumerate(self.classes)}
        unknown = [each for each in found["labels"] if isinstance(each, str) and each not in numbers]
        if unknown:
            raise DataError(f"{self._name(index)}: the class {unknown[0]!r} is unknown; known are {list(numbers)[:8]}")
        labels = [numbers[each] if isinstance(each, str) else each for each in found["labels"]]
        return {**found, "labels": labels}

    def _target(self, index: int, size: tuple[int, int]) -> dict[str, Any]:
        found = self._annotation(index)
        if self.convert.wanted.target == "masks" and "masks" in found:
            try:
                packed = [rle_bytes(each) if isinstance(each, dict) else polygon_bytes(each) for each in found["masks"]]
                found["masks"] = decoded(packed, *size)
            except (Unreadable, TypeError) as error:
                raise DataError(f"{self._name(index)}: its masks cannot be read: {because(error)}") from error
        return found


def bytes_at(path: Path, start: int, size: int, where: str) -> bytes:
    """Return a part of a shard.

    Args:
        path: the shard.
        start: offset of the first byte.
        size: number of bytes.
        where: the file in the shard, as the subject of a sentence.

    Raises:
        DataError: the shard ends before it does.
    """
    with path.open("rb") as file:
        file.seek(start)
        found = file.read(size)
    if len(found) < size:
        raise DataError(f"{where}: the shard ends before it does")
    return found


def _expanded(pattern: str) -> list[Path]:
    """The files of a pattern, sorted, or those of a range in its order."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        base = Path(pattern)
        found = sorted(base.parent.glob(base.name)) if base.name else []
    else:
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < SHARDS:
            raise DataError(f"WebDataset shards {pattern!r}: a range has 1 to {SHARDS:,} numbers")
        names = (f"{number:0{len(match[1])}d}" for number in range(first, last + 1))
        found = [Path(pattern[: match.start()] + name + pattern[match.end() :]) for name in names]
    missing = [path for path in found if not path.is_file()]
    if not found or missing:
        raise DataError(f"WebDataset shards {pattern!r}: there is no {str(missing[0]) if missing else 'such file'}")
    return found


def _read(text: str, shards: list[Path], wanted: Wanted) -> ShardImages:
    where = f"WebDataset shards {text!r}"
    listed = _classes(where, shards[0].parent, wanted)
    keys, places, incomplete = [], [], []
    for number, shard in enumerate(shards):
        for key, members in samples_of(where, shard):
            image = next((members[each] for each in members if f".{each}" in IMAGES), None)
            annotation = next((members[each] for each in _annotations(wanted) if each in members), None)
            if image is None or annotation is None:
                incomplete.append(f"{shard.name}: {key}")
                continue
            keys.append(key)
            places.append((number, *image, *annotation))
    said = f"{where}: {len(incomplete):,} samples have no image, or none of {', '.join(_annotations(wanted))}"
    if incomplete and wanted.broken == "stop":
        raise DataError(f"{said}, such as {', '.join(incomplete[:3])}")
    if not keys:
        raise DataError(f"{said}; there are no others" if incomplete else f"{where}: they hold no samples")
    notes = (f"{said}; they are left out ({', '.join(incomplete[:3])})",) if incomplete else ()
    numbering = listed.numbering.ignoring(wanted.ignore_index) if wanted.target == "map" else None
    names = listed.classes if wanted.target == "map" else listed.names
    found = ShardImages(
        tuple(shards),
        Packed.texts(keys),
        np.array(places, np.int64),
        Converter(where, names, wanted),
        numbering,
        (),
        notes,
    )
    if wanted.target != "keypoints":
        return found
    joints = _joints(found)
    return dc.replace(found, joints=joints, convert=dc.replace(found.convert, joints=len(joints)))


def _annotations(wanted: Wanted) -> tuple[str, ...]:
    return MAPS if wanted.target == "map" else ("json",)


def _classes(where: str, folder: Path, wanted: Wanted) -> ClassList:
    listed = first_there(folder / name for name in ("classes.txt", "labelmap.txt"))
    if listed is None:
        if wanted.classes is not None:
            return ClassList(wanted.classes)
        raise DataError(f"{where}: there is no classes.txt beside them, with the name of each class on a line")
    found = read_class_list(listed, where)
    names = found.classes if wanted.target == "map" else found.names
    if wanted.classes is not None and names != wanted.classes:
        raise DataError(f"{where}: it has other classes than the training data: {list(names)[:8]}")
    return found


def samples_of(where: str, shard: Path) -> Iterator[tuple[str, Mapping[str, tuple[int, int]]]]:
    """Yield the key of each sample of a shard, and start and size of its files by what follows the first dot.

    Raises:
        DataError: the shard is damaged or compressed.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            key = ""
            members: dict[str, tuple[int, int]] = {}
            for info in archive:
                vars(archive)["members"] = []  # else the library holds all headers
                if not info.isreg():
                    continue
                folder, _, name = info.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if f"{folder}/{stem}" != key and members:
                    yield key.lstrip("/"), members
                    members = {}
                key = f"{folder}/{stem}"
                members[ending.lower()] = (info.offset_data, info.size)
            if members:
                yield key.lstrip("/"), members
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{where}: {shard} cannot be read: {because(error)}; a shard is an uncompressed tar file"
        ) from error


def _joints(examples: ShardImages) -> tuple[str, ...]:
    """Numbers of the keypoints of the first object."""
    rows = (examples._annotation(index).get("keypoints") for index in range(len(examples)))
    first: Any = next((points[0] for points in rows if points), [])
    return tuple(str(number) for number in range(len(first)))
