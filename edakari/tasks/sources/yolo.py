"""YOLO text files: boxes, polygons and keypoints in fractions of the image. `yolo:DATA.yaml`, or a folder with one.

The YAML file has `names`, `train`, `val`, and may have `path`, `kpt_shape` and `flip_idx`. A split is a folder of
images, a text file that lists them, or a list of these. The label file of images/a/b.jpg is labels/a/b.txt, or beside
the image. An image without a label file shows no object. A line is one object:

    CLASS CENTRE_X CENTRE_Y WIDTH HEIGHT                      boxes
    CLASS X1 Y1 X2 Y2 X3 Y3 ...                               masks (and boxes around them)
    CLASS CENTRE_X CENTRE_Y WIDTH HEIGHT X1 Y1 [V1] ...       keypoints
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.core.reading import Unreadable, because, read_text
from edakari.errors import DataError
from edakari.tasks.sources.checking import annotated, labels_by_name
from edakari.tasks.sources.examples import Examples, Wanted
from edakari.tasks.sources.listing import image_files, read_lines, sizes_on_disk
from edakari.tasks.sources.masks import polygon_bytes
from edakari.tasks.sources.mending import Fault
from edakari.tasks.sources.objects import AnnotatedImages, Listed, Row, Rows
from edakari.tasks.sources.packed import Packed

__all__ = ["yolo"]

LABEL_BYTES = 16 * 2**20
"""The label file of an image has some kilobytes."""
JOINTS = 1000
"""Largest number of keypoints of an object."""
VISIBLE = 2
"""Visibility of keypoints that come without one and are not at 0, 0."""


def yolo(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read the data that a YAML file describes.

    Args:
        argument: the YAML file, or a folder with one.
        wanted: what the task asks for.

    Raises:
        DataError: nothing of this form is there, a file is damaged, or it lacks what is wanted.
    """
    data = _described(Path(argument), wanted)
    if not data.train:
        raise DataError(f"{data.where} has no `train`")
    first = _read(data, data.train, wanted)
    return first, _read(data, data.val, wanted.like(first)) if data.val else None


@dc.dataclass(frozen=True)
class _Data:
    """What a YAML file says."""

    where: str
    root: Path
    names: tuple[str, ...]
    train: tuple[str, ...]
    val: tuple[str, ...]
    joints: int = 0
    numbers: int = 0
    flip_pairs: tuple[tuple[int, int], ...] = ()


def _described(path: Path, wanted: Wanted) -> _Data:
    with needs("train", "reading YAML"):
        import yaml

        from edakari.core.reading_yaml import YAML_BYTES, parse_yaml

    if path.is_dir():
        found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        if len(found) != 1:
            raise DataError(
                f"YOLO folder {str(path)!r} has {len(found)} YAML files ({[each.name for each in found][:6]}); name "
                "the one with `names`, `train` and `val`, such as yolo:data.yaml"
            )
        path = found[0]
    where = f"YOLO data {str(path)!r}"
    try:
        content, _ = parse_yaml(read_text(path, YAML_BYTES))
        if not isinstance(content, dict):
            raise Unreadable("it is no mapping with `names`, `train` and `val`")
        names, root = _names(content.get("names")), _root(path, content.get("path"))
        joints, numbers = _keypoints(content.get("kpt_shape"), wanted)
        pairs = _pairs(content.get("flip_idx"), joints) if joints else ()
        train, val = (_texts(content.get(split)) for split in ("train", "val"))
    except (OSError, Unreadable, yaml.YAMLError) as error:
        raise DataError(f"{where} cannot be read: {because(error)}") from error
    return _Data(where, root, names, train, val, joints, numbers, pairs)


def _names(names: Any) -> tuple[str, ...]:
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not names:
        raise Unreadable("its `names` must be a list, or a mapping from 0, 1, 2, ... to the names of the classes")
    return tuple(str(name) for name in names)


def _root(path: Path, stated: Any) -> Path:
    """The folder that splits are relative to: `path`, relative to the file or to where the program runs."""
    if stated is None:
        return path.parent
    return next((each for each in (path.parent / str(stated), Path(str(stated))) if each.is_dir()), path.parent)


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(each, str) for each in values):
        raise Unreadable("its `train` and `val` must be paths, or lists of paths")
    return tuple(values)


def _keypoints(shape: Any, wanted: Wanted) -> tuple[int, int]:
    """Number of keypoints, and of the values of each; zeros where there are none."""
    if shape is None and wanted.target != "keypoints":
        return 0, 0
    if (
        not (isinstance(shape, list) and len(shape) == 2 and all(type(each) is int for each in shape))
        or not 0 < shape[0] <= JOINTS
        or shape[1] not in (2, 3)
    ):
        raise Unreadable(f"keypoints need `kpt_shape`: [number, 2 or 3], found {shape!r}")
    return shape[0], shape[1]


def _pairs(order: Any, count: int) -> tuple[tuple[int, int], ...]:
    """Keypoints that change places, from the order of keypoints in a mirrored image."""
    if order is None:
        return ()
    whole = isinstance(order, list) and all(type(each) is int for each in order)
    if not whole or sorted(order) != list(range(count)) or any(order[order[at]] != at for at in range(count)):
        raise Unreadable(f"its `flip_idx` must say for each of the {count} keypoints with which one it changes places")
    return tuple((at, other) for at, other in enumerate(order) if at < other)


def _read(data: _Data, split: Sequence[str], wanted: Wanted) -> AnnotatedImages:
    files = [file for part in split for file in _files(data, part)]
    if not files:
        raise DataError(f"{data.where}: there are no images in {', '.join(map(repr, split))}")
    labels = labels_by_name(data.where, data.names, wanted)
    numbers = [labels[name] for name in data.names]
    sizes = sizes_on_disk(data.root, files)
    rows = Rows(data.joints if wanted.target == "keypoints" else 0)
    for image, file in enumerate(files):
        for row in _rows(data, file, (image, int(sizes[image, 0]), int(sizes[image, 1])), wanted):
            rows.add(row._replace(label=numbers[row.label] if 0 <= row.label < len(numbers) else -1))
    listed = Listed(
        data.where,
        data.root,
        Packed.texts(files),
        sizes,
        np.arange(len(files)),
        wanted.classes or data.names,
        tuple(str(joint) for joint in range(rows.joints)),
        data.flip_pairs,
    )
    return annotated(listed, rows, wanted)


def _files(data: _Data, part: str) -> list[str]:
    """Images of a folder or of a list, relative to the root where they lie in it."""
    # exports of labelling tools say ../train/images and mean train/images
    places = [data.root / part, data.root / part.removeprefix("../")]
    path = next((each for each in places if each.exists()), None)
    if path is None:
        raise DataError(f"{data.where}: there is no {str(places[0])!r}, which it names as a folder or a list of images")
    if path.is_dir():
        found = [path / file for file in image_files(path)]
    else:
        lines = read_lines(path, data.where)
        found = [path.parent / line if line.startswith("./") else data.root / line for line in lines]
    return [each.relative_to(data.root).as_posix() if each.is_relative_to(data.root) else str(each) for each in found]


def _rows(data: _Data, file: str, shape: tuple[int, int, int], wanted: Wanted) -> list[Row]:
    """The objects of an image; `shape` is its index, height and width."""
    image = data.root / file
    path = next((each for each in _label_files(image) if each.is_file()), None)
    if path is None:
        return []
    try:
        lines = read_text(path, LABEL_BYTES).splitlines()
    except (OSError, Unreadable) as error:
        raise DataError(f"{data.where}: {path} cannot be read: {because(error)}") from error
    return [_row(data, line, number, shape, wanted) for number, line in enumerate(lines, 1) if line.strip()]


def _label_files(image: Path) -> list[Path]:
    parts = list(image.parts)
    found = [image.with_suffix(".txt")]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        found.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt"))
    return found


def _row(data: _Data, line: str, number: int, shape: tuple[int, int, int], wanted: Wanted) -> Row:
    """The object of a line, with the label that the line says."""
    image, height, width = shape
    try:
        values = np.array(line.split(), np.float64)
        label, rest = int(values[0]), values[1:]
        if label != values[0]:
            raise ValueError(label)
    except (ValueError, OverflowError):
        return Row(image, 0, (0.0,) * 4, fault=Fault.FORM, remark=f"line {number}: {line[:60]!r}")
    scale, remark = np.array([width, height], np.float64), f"line {number} of its labels: {line[:60]!r}"
    mask, fault = b"", Fault.NONE
    pose = data.joints > 0 and len(rest) == 4 + data.joints * data.numbers
    if wanted.target == "keypoints" and not pose:
        fault = Fault.KEYPOINTS
    points = _points(rest[4:], data, scale) if wanted.target == "keypoints" and pose else []
    if len(rest) == 4 or pose:
        centre, half = rest[:2], rest[2:4] / 2
        corners = np.concatenate([(centre - half) * scale, (centre + half) * scale])
    elif len(rest) >= 6 and len(rest) % 2 == 0:
        polygon = rest.reshape(-1, 2) * scale
        corners = np.concatenate([polygon.min(0), polygon.max(0)])
        mask = _mask(polygon) if wanted.target == "masks" else b""
    else:
        corners, fault = np.zeros(4), fault or Fault.FORM
    return Row(image, label, tuple(corners.tolist()), points=points, mask=mask, fault=fault, remark=remark)


def _mask(polygon: npt.NDArray[np.float64]) -> bytes:
    try:
        return polygon_bytes([polygon])
    except Unreadable:
        return b""


def _points(values: npt.NDArray[np.float64], data: _Data, scale: npt.NDArray[np.float64]) -> list[float]:
    """x, y in pixels and visibility of each keypoint."""
    points = values.reshape(data.joints, data.numbers)
    visible = points[:, 2] if data.numbers == 3 else np.where((points != 0).any(1), VISIBLE, 0)
    found: list[float] = np.column_stack([points[:, :2] * scale, visible]).reshape(-1).tolist()
    return found
