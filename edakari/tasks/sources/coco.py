"""COCO JSON: boxes, masks as polygons or run-length codes, and keypoints.

`coco:FOLDER` or `coco:ANNOTATIONS.json` or `coco:ANNOTATIONS.json:IMAGES`. A folder looks like one of

    annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/, val2017/
    annotations/person_keypoints_train2017.json, ...        (preferred where keypoints are wanted)
    train/_annotations.coco.json, valid/_annotations.coco.json, the images beside them
    train.json, val.json, and images in images/, train/ and val/, or beside them
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edakari.core.reading import Unreadable, because, parse_json, read_text
from edakari.errors import DataError
from edakari.tasks.sources.checking import annotated, labels_by_name
from edakari.tasks.sources.examples import Examples, Target, Wanted
from edakari.tasks.sources.masks import polygon_bytes, rle_bytes
from edakari.tasks.sources.mending import Fault
from edakari.tasks.sources.objects import AnnotatedImages, Listed, Row, Rows
from edakari.tasks.sources.packed import Packed

__all__ = ["coco", "read_coco"]

COCO_BYTES = 4 * 2**30
"""The largest public files of this form have a gigabyte."""
COCO_BRACKETS = 50_000_000
OTHERS = ("captions_", "panoptic_", "image_info_", "stuff_")
"""Files beside those of objects in COCO's own folder."""
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation")}


def coco(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read a folder with training and validation data, or one annotation file.

    Args:
        argument: "FOLDER", "ANNOTATIONS.json" or "ANNOTATIONS.json:IMAGES".
        wanted: what the task asks for.

    Raises:
        DataError: nothing of this form is there, a file is damaged, or it lacks what is wanted.
    """
    file, colon, images = argument.rpartition(".json:")
    path = Path(f"{file}.json" if colon else argument)
    if path.is_dir():
        train = _annotation_file(path, "train", wanted.target)
        if train is None:
            raise DataError(_nothing(path))
        first = read_coco(train, None, wanted)
        val = _annotation_file(path, "val", wanted.target)
        return first, read_coco(val, None, wanted.like(first)) if val else None
    return read_coco(path, Path(images) if colon else None, wanted), None


def read_coco(path: Path, images: Path | None, wanted: Wanted) -> AnnotatedImages:
    """Read one annotation file.

    Args:
        path: the file.
        images: folder of its images; None looks for it beside the file.
        wanted: what the task asks for.

    Raises:
        DataError: see `coco`.
    """
    where = f"COCO annotations {str(path)!r}"
    slim = _Slim(wanted.target)
    try:
        content = parse_json(read_text(path, COCO_BYTES), COCO_BRACKETS, slim)
        parts = [_mappings(content, key) for key in ("images", "annotations", "categories")]
        files = [str(each["file_name"]) for each in parts[0]]
        ids = np.array([_whole(each["id"]) for each in parts[0]], np.int64).reshape(-1)
        sizes = np.array([[_whole(each.get(key, 0)) for key in ("height", "width")] for each in parts[0]], np.int32)
    except (OSError, Unreadable, KeyError, OverflowError) as error:
        raise DataError(f"{where} cannot be read: {because(error)}") from error
    outside = [file for file in files if ".." in PurePosixPath(file).parts or Path(file).is_absolute()]
    if outside:
        raise DataError(f"{where}: the image {outside[0]!r} leads out of the folder of images")
    if len(np.unique(ids)) < len(ids):
        raise DataError(f"{where}: two images have one id")
    kind = _Categories.of(where, parts[2], wanted)
    root = images or _image_folder(where, path, files)
    listed = Listed(
        where,
        root,
        Packed.texts(files),
        sizes.reshape(-1, 2),
        ids,
        wanted.classes or tuple(kind.names.values()),
        kind.joints,
        pairs_of(kind.joints),
    )
    return annotated(listed, _rows(parts[1], kind, {int(each): at for at, each in enumerate(ids)}), wanted)


def pairs_of(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Keypoints that change places in a mirrored image: those whose names differ by "left" and "right" alone."""
    index = {name.lower(): at for at, name in enumerate(joints)}
    pairs = ((at, index.get(name.replace("left", "right"))) for name, at in index.items() if "left" in name)
    return tuple((at, other) for at, other in pairs if other is not None)


@dc.dataclass(frozen=True)
class _Categories:
    """The categories that count: their names and labels by id, and their keypoints."""

    names: Mapping[int, str]
    labels: Mapping[int, int]
    skipped: frozenset[int]
    joints: tuple[str, ...] = ()

    @classmethod
    def of(cls, where: str, categories: Sequence[Mapping[str, Any]], wanted: Wanted) -> _Categories:
        """The categories of a file; where keypoints are wanted, those that have some."""
        try:
            names = {_whole(each["id"]): str(each["name"]) for each in categories}
            points = {_whole(each["id"]): tuple(map(str, each.get("keypoints") or ())) for each in categories}
        except (KeyError, Unreadable, TypeError) as error:
            raise DataError(f"{where} cannot be read: a category has no id or name ({error})") from error
        joints: tuple[str, ...] = ()
        if wanted.target == "keypoints":
            kinds = {each for each in points.values() if each}
            if len(kinds) != 1:
                raise DataError(
                    f"{where}: keypoints are wanted, and "
                    + ("no category has any" if not kinds else "categories have different ones; keep one kind")
                )
            joints = kinds.pop()
        chosen = {each: names[each] for each in sorted(names) if points[each] or not joints}
        labels = labels_by_name(where, list(chosen.values()), wanted)
        return cls(
            chosen, {each: labels[name] for each, name in chosen.items()}, frozenset(names) - set(chosen), joints
        )


class _Slim:
    """Replaces what annotations hold by what is wanted of it, while the file is read: polygons become bytes.

    Args:
        target: what a target has.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, mapping: dict[str, Any]) -> dict[str, Any]:
        if "image_id" not in mapping:
            return mapping
        code = mapping.pop("segmentation", None)
        if self.target != "keypoints":
            mapping.pop("keypoints", None)
        if self.target == "masks":
            try:
                mapping["mask"] = rle_bytes(code) if isinstance(code, dict) else polygon_bytes(code or ())
            except Unreadable:
                mapping["mask"] = b""
        return mapping


def _rows(annotations: Iterable[Mapping[str, Any]], kind: _Categories, images: Mapping[int, int]) -> Rows:
    """The objects of a file."""
    rows = Rows(len(kind.joints))
    for each in annotations:
        category = each.get("category_id")
        if category in kind.skipped:
            continue
        box, fault = _corners(each.get("bbox"))
        area, points = each.get("area"), each.get("keypoints") or ()
        if not _numbers(points):
            points, fault = (), Fault.KEYPOINTS
        image, label = images.get(each.get("image_id"), -1), kind.labels.get(category, -1)  # type: ignore[arg-type]
        row = Row(
            image,
            label,
            box,
            area=float(area) if isinstance(area, int | float) and not isinstance(area, bool) else None,
            crowd=bool(each.get("iscrowd", 0)),
            points=points,
            mask=each.get("mask", b""),
            fault=fault,
            remark=_remark(each, image, label),
        )
        rows.add(row)
    return rows


def _remark(annotation: Mapping[str, Any], image: int, label: int) -> str:
    """What a message says of an annotation without image or class."""
    number = annotation.get("id")
    if image < 0:
        return f"annotation {number} of image id {annotation.get('image_id')}"
    return f"annotation {number} of category {annotation.get('category_id')}" if label < 0 else ""


def _corners(box: Any) -> tuple[tuple[float, float, float, float], int]:
    """Left, top, right and bottom of COCO's left, top, width and height."""
    if not (isinstance(box, list) and len(box) == 4 and _numbers(box)):
        return (0, 0, 0, 0), Fault.NO_BOX
    left, top, width, height = map(float, box)
    return (left, top, left + width, top + height), Fault.NONE


def _numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)


def _mappings(content: Any, key: str) -> list[dict[str, Any]]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Unreadable(f"it has no list {key!r} of mappings, as COCO's files of objects have")
    return found


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unreadable(f"a whole number is needed for id, width and height, found {value!r}")
    return value


def _annotation_file(folder: Path, split: str, target: Target) -> Path | None:
    """The annotation file of a split; the first of the forms that is there."""
    first, second = ("person_keypoints", "instances") if target == "keypoints" else ("instances", "person_keypoints")
    for name in SPLITS[split]:
        for pattern in (
            f"annotations/{first}_{name}*.json",
            f"annotations/{second}_{name}*.json",
            f"annotations/*{name}*.json",
            f"{name}/_annotations.coco.json",
            f"{name}*.json",
            f"*_{name}*.json",
        ):
            found = [each for each in sorted(folder.glob(pattern)) if not each.name.startswith(OTHERS)]
            if len(found) > 1:
                raise DataError(
                    f"COCO folder {str(folder)!r} has several annotation files of the {split} split: "
                    f"{[each.name for each in found][:6]}; name one: coco:{found[0]}"
                )
            if found:
                return found[0]
    return None


def _image_folder(where: str, path: Path, files: Sequence[str]) -> Path:
    """The folder of a file's images, judged by the first few."""
    split = path.stem.rpartition("_")[2] or path.stem
    short = next((short for short in (*SPLITS["val"], "train", "test") if split.startswith(short)), split)
    bases = (path.parent, path.parent.parent)
    names = ("", f"images/{split}", split, f"images/{short}", short, "images")
    looked = [base / name for name in names for base in bases]
    for folder in looked:
        if any((folder / file).is_file() for file in files[:20]):
            return folder
    raise DataError(
        f"{where}: its images, such as {files[0] if files else 'none'!r}, are in none of "
        f"{', '.join(str(each) for each in dict.fromkeys(looked))}; name their folder: coco:{path}:IMAGES"
    )


def _nothing(folder: Path) -> str:
    return (
        f"COCO folder {str(folder)!r} has no annotation file of a training split; looked for "
        "annotations/instances_train*.json, annotations/person_keypoints_train*.json, annotations/*train*.json, "
        "train/_annotations.coco.json, train*.json and *_train*.json"
    )
