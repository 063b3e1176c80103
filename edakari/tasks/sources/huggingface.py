"""Hugging Face data sets: `hf:NAME` of the hub, or `hf:FOLDER` on the disk, with options behind a question mark.

    hf:cppe-5                                   boxes as [left, top, width, height], as COCO has them
    hf:detection-datasets/fashionpedia?boxes=xyxy
    hf:zhoubolei/scene_parse_150?map=annotation&classes=names.txt
    hf:saved/to/disk?train=train&val=test

The options name columns (`image`, `objects`, `bbox`, `category`, `segmentation`, `map`), splits (`train`, `val`), a
configuration (`config`), the form of boxes (`boxes`: xywh, xyxy or cxcywh) and a list of classes (`classes`: a text
file). A column of objects is a mapping of lists: `bbox`, `category`, and perhaps `area`, `iscrowd`, `keypoints` and
`segmentation`, the masks, as polygons, run-length codes or images. Code of the hub never runs.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.errors import DataError
from edakari.tasks.sources.class_lists import read_class_list
from edakari.tasks.sources.converting import Converter
from edakari.tasks.sources.examples import Examples, Wanted, at_index
from edakari.tasks.sources.hub_masks import masks_of_objects
from edakari.tasks.sources.label_maps import Numbering
from edakari.tasks.sources.listing import TRAIN, VAL

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["HubImages", "columns_of", "file_in", "hf", "named_split", "splits_of"]

OPTIONS = {
    "config": "",
    "train": "",
    "val": "",
    "image": "image",
    "objects": "objects",
    "bbox": "bbox",
    "category": "category",
    "segmentation": "",
    "map": "",
    "boxes": "xywh",
    "classes": "",
}
"""Options and what they are without being named."""
MAPS = ("annotation", "annotations", "label", "labels", "mask", "masks", "segmentation_mask", "semantic_segmentation")
"""Names of columns with label maps, where none is named."""
MASKS = ("segmentation", "segmentations", "masks", "mask")
"""Names of the masks in a column of objects, where none is named."""
CROWD = ("iscrowd", "is_crowd")


def hf(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read a Hugging Face data set.

    Args:
        argument: its name or folder, with options.
        wanted: what the task asks for.

    Raises:
        DataError: there is no such data set, it is damaged, or it lacks what is wanted.
    """
    name, _, query = argument.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise DataError(f"hf:{argument}: there is no option {unknown[0]!r}, only {', '.join(OPTIONS)}")
    options = {**OPTIONS, **given}
    if options["boxes"] not in ("xywh", "xyxy", "cxcywh"):
        raise DataError(f"hf:{argument}: boxes is xywh, xyxy or cxcywh, found {options['boxes']!r}")
    splits = splits_of(name, options["config"])
    train = named_split(name, splits, options["train"], TRAIN)
    first = _examples(f"Hugging Face data set {name!r}, split {train}", splits[train], options, wanted)
    others = [each for each in VAL if each in splits]
    if not (options["val"] or others):
        return first, None
    val = named_split(name, splits, options["val"], VAL)
    second = _examples(f"Hugging Face data set {name!r}, split {val}", splits[val], options, wanted.like(first))
    return first, second


@dc.dataclass(frozen=True, eq=False)
class HubImages:
    """Images of a Hugging Face data set; see `edakari.tasks.sources.examples.Examples`.

    Args:
        dataset: the data set, whose images are files, without the column of objects.
        options: names of columns and the form of boxes.
        convert: conversion of items.
        numbering: labels of what label maps store; None without label maps.
        joints: names of the keypoints.
        objects: the column of objects as it is stored; None with label maps.
    """

    dataset: Any
    options: Mapping[str, str]
    convert: Converter
    numbering: Numbering | None = None
    joints: tuple[str, ...] = ()
    objects: Any = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in order of the labels."""
        return self.convert.classes

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, int32 [N, 2], by the columns of these names; 0 without them."""
        names = [name for name in ("height", "width") if name in self.dataset.column_names]
        if len(names) < 2:
            return np.zeros((len(self), 2), np.int32)
        table = self.dataset.select_columns(names).with_format("numpy")
        return np.stack([table[name][:] for name in names], 1).astype(np.int32)

    def __len__(self) -> int:
        return len(self.dataset)

    def _objects_at(self, index: int) -> Mapping[str, Any]:
        """Objects of an image as they are stored: images of masks are not decoded."""
        found: Mapping[str, Any] = self.objects[index].to_pylist()[0][self.options["objects"]]
        return found

    def labels_of(self, index: int) -> npt.NDArray[np.int64] | None:
        """Labels of an image's objects, int64 [n]; None for label maps."""
        if self.numbering is not None:
            return None
        objects = self._objects_at(at_index(index, len(self)))
        return np.array(objects[self.options["category"]], np.int64).reshape(-1)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading annotated images"):
            from edakari.tasks.images import read_label_map, read_pixels

        index = at_index(index, len(self))
        row, where = self.dataset[index], f"{self.convert.where}, item {index}"
        image = read_pixels(file_in(row[self.options["image"]], where))
        number = row.get("image_id")
        target: dict[str, Any] = {"image_id": number if isinstance(number, int) else index}
        if self.numbering is not None:
            stored = read_label_map(file_in(row[self.options["map"]], f"{where}, map"))
            try:
                target["map"] = self.numbering(stored, self.convert.wanted.ignore_index)
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
        else:
            target.update(self._objects(self._objects_at(index), image, where))
        return self.convert((image, target), index)

    def _objects(self, objects: Mapping[str, Any], image: Any, where: str) -> dict[str, Any]:
        from torchvision import tv_tensors

        boxes = np.array(objects[self.options["bbox"]], np.float32).reshape(-1, 4)
        found: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(
                boxes, format=self.options["boxes"].upper(), canvas_size=tuple(image.shape[-2:])
            ),
            "labels": np.array(objects[self.options["category"]], np.int64),
        }
        crowd = next((name for name in CROWD if name in objects), None)
        if crowd:
            found["iscrowd"] = objects[crowd]
        if "area" in objects:
            found["area"] = objects["area"]
        if self.convert.wanted.target == "masks":
            masks = objects[self.options["segmentation"]] or []
            found["masks"] = masks_of_objects(masks, tuple(image.shape[-2:]), where)
        if self.convert.wanted.target == "keypoints":
            found["keypoints"] = np.array(objects["keypoints"], np.float32).reshape(len(boxes), len(self.joints), 3)
        return found


def splits_of(name: str, config: str) -> Mapping[str, Any]:
    """Return the splits of a data set on the disk or of the hub.

    Raises:
        DataError: there is no such data set, or it is damaged.
    """
    with needs("huggingface", "reading Hugging Face data sets"):
        import datasets

    if (name.startswith((".", "/")) or name.count("/") > 1) and not Path(name).exists():
        raise DataError(f"Hugging Face data set {name!r}: there is no such folder")
    saved = any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        found = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config or None)
    except Exception as error:
        # of the library, of the file system and of the network
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(f"Hugging Face data set {name!r} cannot be read: {said}") from error
    splits: Any = {"train": found} if isinstance(found, datasets.Dataset) else found
    return {str(name): splits[name] for name in splits}


def named_split(name: str, splits: Mapping[str, Any], given: str, others: tuple[str, ...]) -> str:
    """Return the split that is named, or the first of `others` that is there.

    Raises:
        DataError: there is none.
    """
    found = given or next((each for each in others if each in splits), "")
    if found not in splits:
        raise DataError(
            f"Hugging Face data set {name!r} has no split {given or others[0]!r}, only {', '.join(map(str, splits))}; "
            "name others: ?train=NAME&val=NAME"
        )
    return found


def _examples(where: str, dataset: Any, options: Mapping[str, str], wanted: Wanted) -> HubImages:
    import datasets

    if not len(dataset):
        raise DataError(f"{where}: it is empty")
    features = dataset.features
    image = options["image"]
    if not isinstance(features.get(image), datasets.Image):
        raise DataError(
            f"{where}: it has no column {image!r} of images, only {columns_of(features)}; name it: ?image=NAME"
        )
    dataset = dataset.cast_column(image, datasets.Image(decode=False))
    if wanted.target == "map":
        return _with_maps(where, dataset, options, wanted)
    options = _with_masks(dataset, options)
    names, joints = _categories(where, dataset, options, wanted)
    name = options["objects"]
    objects = dataset.select_columns([name]).with_format("arrow")
    convert = Converter(where, names, wanted, len(joints))
    return HubImages(dataset.remove_columns([name]), options, convert, None, joints, objects)


def _with_masks(dataset: Any, options: Mapping[str, str]) -> Mapping[str, str]:
    """The options, with the name of the masks that are there."""
    objects = dataset.features.get(options["objects"])
    names = MASKS if isinstance(objects, Mapping) and not options["segmentation"] else ()
    return {**options, "segmentation": next((name for name in names if name in objects), options["segmentation"])}


def _with_maps(where: str, dataset: Any, options: Mapping[str, str], wanted: Wanted) -> HubImages:
    import datasets

    columns = [name for name in ((options["map"],) if options["map"] else MAPS) if name in dataset.features]
    if not columns or not isinstance(dataset.features[columns[0]], datasets.Image):
        raise DataError(
            f"{where}: it has no column of label maps, only {columns_of(dataset.features)}; name it: ?map=NAME"
        )
    if not options["classes"]:
        raise DataError(f"{where}: nothing names the classes of its label maps; name a list: ?classes=FILE.txt")
    listed = read_class_list(Path(options["classes"]), where)
    dataset = dataset.cast_column(columns[0], datasets.Image(decode=False))
    numbering = listed.numbering.ignoring(wanted.ignore_index)
    return HubImages(dataset, {**options, "map": columns[0]}, Converter(where, listed.classes, wanted), numbering)


def _categories(
    where: str, dataset: Any, options: Mapping[str, str], wanted: Wanted
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the classes and of the keypoints."""
    objects = dataset.features.get(options["objects"])
    more = {"keypoints": "keypoints", "masks": options["segmentation"] or MASKS[0]}.get(wanted.target)
    parts = (options["bbox"], options["category"], *((more,) if more else ()))
    if not isinstance(objects, Mapping) or any(part not in objects for part in parts):
        raise DataError(
            f"{where}: it has no column {options['objects']!r} with {', '.join(parts)}, only "
            f"{columns_of(dataset.features)}; name them: ?objects=NAME&bbox=NAME&category=NAME"
            + ("&segmentation=NAME" if wanted.target == "masks" else "")
        )
    names = getattr(getattr(objects[options["category"]], "feature", None), "names", None)
    if options["classes"]:
        names = read_class_list(Path(options["classes"]), where).names
    if not names:
        raise DataError(f"{where}: nothing names its classes; name a list: ?classes=FILE.txt")
    if wanted.classes is not None and tuple(names) != wanted.classes:
        raise DataError(f"{where}: it has other classes than the training data: {list(names)[:8]}")
    return tuple(names), _joints(dataset, options) if wanted.target == "keypoints" else ()


def _joints(dataset: Any, options: Mapping[str, str]) -> tuple[str, ...]:
    """Numbers of the keypoints of the first object."""
    table = dataset.select_columns([options["objects"]])
    rows = (table[index][options["objects"]]["keypoints"] for index in range(len(table)))
    first: Any = next((points[0] for points in rows if len(points)), [])
    return tuple(str(number) for number in range(np.array(first).size // 3))


def file_in(value: Any, where: str) -> Any:
    """Return the file of an image: its path, or its bytes in memory.

    Raises:
        DataError: there is neither.
    """
    from edakari.tasks.images import Held

    if isinstance(value, Mapping) and value.get("bytes"):
        return Held(where, value["bytes"])
    if isinstance(value, Mapping) and value.get("path"):
        return value["path"]
    raise DataError(f"{where}: there is no image")


def columns_of(features: Mapping[str, Any]) -> str:
    """Return names and kinds of a data set's columns, for errors."""
    return ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
