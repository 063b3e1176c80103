"""Images with objects: boxes, masks and keypoints in packed arrays, whatever format they come from."""

from __future__ import annotations

import dataclasses as dc
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.optional import needs
from edakari.core.reading import Unreadable
from edakari.errors import DataError
from edakari.tasks.sources.examples import Target, at_index
from edakari.tasks.sources.masks import decoded
from edakari.tasks.sources.mending import Fault
from edakari.tasks.sources.packed import Packed

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["AnnotatedImages", "Listed", "Objects", "Row", "Rows"]

REMARKS = 1000
"""Largest number of remarks that are kept; a message names three of each fault."""


@dc.dataclass(frozen=True, eq=False)
class Listed:
    """The images that a source lists, and what its objects are.

    Args:
        where: the source, as the subject of a sentence in errors and notes.
        root: folder that the paths of images are relative to.
        files: paths of the images, with forward slashes.
        sizes: height and width of each image, int32 [N, 2]; 0 where unknown, below 0 where the image is unreadable.
        ids: number of each image, int64 [N].
        classes: names in order of the labels.
        joints: names of the keypoints.
        flip_pairs: keypoints that change places in a mirrored image.
    """

    where: str
    root: Path
    files: Packed
    sizes: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    joints: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()


class Row(NamedTuple):
    """An object as a format's reader finds it.

    Args:
        image: index of the image; -1 where it is not listed.
        label: label of the class; -1 where it is unknown.
        box: left, top, right and bottom in pixels.
        area: area in pixels; None takes the box's.
        crowd: whether it stands for a region of many objects, or is one that does not count.
        points: x, y and visibility of each keypoint; empty where none is labelled.
        mask: its mask; see `edakari.tasks.sources.masks`.
        fault: a number of `Fault`, if the reader found one.
        remark: what a message says of the object where it is broken; empty is its box.
    """

    image: int
    label: int
    box: Sequence[float]
    area: float | None = None
    crowd: bool = False
    points: Sequence[float] = ()
    mask: bytes = b""
    fault: int = Fault.NONE
    remark: str = ""


class Rows:
    """Objects in the order in which a format's reader finds them.

    Args:
        joints: number of keypoints of an object.
    """

    def __init__(self, joints: int = 0) -> None:
        self.joints = joints
        self._images, self._labels = array("q"), array("q")
        self._boxes, self._areas, self._points = array("f"), array("f"), array("f")
        self._crowd, self._faults = array("b"), array("b")
        self._masks: list[bytes] = []
        self._remarks: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._images)

    def add(self, row: Row) -> None:
        """Add an object."""
        points, fault = row.points, row.fault
        if points and len(points) != 3 * self.joints:
            points, fault = (), fault or Fault.KEYPOINTS
        if row.label < 0:
            fault = fault or Fault.CLASS
        if row.image < 0:
            fault = fault or Fault.UNLISTED
        if fault and row.remark and len(self._remarks) < REMARKS:
            self._remarks[len(self)] = row.remark
        self._images.append(row.image)
        self._labels.append(row.label)
        self._boxes.extend(row.box)
        self._areas.append(float("nan") if row.area is None else row.area)
        self._crowd.append(row.crowd)
        self._points.extend(points or (0.0,) * (3 * self.joints))
        self._faults.append(fault)
        self._masks.append(row.mask)

    def packed(self) -> Objects:
        """The objects as arrays, sorted by image."""
        images = np.array(self._images, np.int64)
        order = np.argsort(images, kind="stable")
        return Objects(
            images[order],
            np.array(self._labels, np.int64)[order],
            np.array(self._boxes, np.float32).reshape(-1, 4)[order],
            np.array(self._areas, np.float32)[order],
            np.array(self._crowd, np.bool_)[order],
            np.array(self._points, np.float32).reshape(len(order), self.joints, 3)[order],
            Packed.of(self._masks[int(index)] for index in order),
            np.array(self._faults, np.int8)[order],
            {at: self._remarks[index] for at, index in enumerate(order.tolist()) if index in self._remarks},
        )


@dc.dataclass(frozen=True, eq=False)
class Objects:
    """Objects of many images; those of one image follow one another.

    Args:
        images: index of the image of each object, int64 [n], sorted.
        labels: label of each object, int64 [n].
        boxes: left, top, right and bottom in pixels, float32 [n, 4].
        areas: area in pixels, float32 [n].
        crowd: whether an object stands for a region of many, or does not count, bool [n].
        points: x, y and visibility of the keypoints, float32 [n, K, 3].
        masks: the masks.
        faults: numbers of `Fault`, int8 [n].
        remarks: what a message says of broken objects, by index.
    """

    images: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    areas: npt.NDArray[np.float32]
    crowd: npt.NDArray[np.bool_]
    points: npt.NDArray[np.float32]
    masks: Packed
    faults: npt.NDArray[np.int8]
    remarks: Mapping[int, str] = dc.field(default_factory=dict)

    def take(self, indices: npt.NDArray[np.int64]) -> Objects:
        """The objects at these indices, without remarks."""
        names = [field.name for field in dc.fields(self) if field.name not in ("masks", "remarks")]
        arrays = {name: getattr(self, name)[indices] for name in names}
        return Objects(masks=self.masks.take(indices), **arrays)


@dc.dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """Images on the disk with their objects; see `edakari.tasks.sources.examples.Examples`.

    Args:
        listed: the images and classes.
        objects: the objects, without broken ones.
        starts: index of the first object of each image, and the number of objects, int64 [N + 1].
        target: what a target has.
        notes: what a reader of the results should know about the data.
    """

    listed: Listed
    objects: Objects
    starts: npt.NDArray[np.int64]
    target: Target
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in order of the labels."""
        return self.listed.classes

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the keypoints."""
        return self.listed.joints

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Keypoints that change places in a mirrored image."""
        return self.listed.flip_pairs

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, int32 [N, 2]; 0 where unknown."""
        return self.listed.sizes

    def __len__(self) -> int:
        return len(self.listed.files)

    def labels_of(self, index: int) -> npt.NDArray[np.int64]:
        """Labels of an image's objects, int64 [n]."""
        return self.objects.labels[self._of(index)]

    def posed_of(self, index: int) -> npt.NDArray[np.bool_]:
        """Which of an image's objects are single and have labelled keypoints, bool [n]."""
        here = self._of(index)
        return (self.objects.points[here][..., 2] > 0).any(1) & ~self.objects.crowd[here]

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading annotated images"):
            from torchvision import tv_tensors

            from edakari.tasks.images import read_pixels

        index = at_index(index, len(self))
        path = self.listed.root / self.listed.files.text(index)
        image = tv_tensors.Image(read_pixels(path))
        height, width = image.shape[-2:]
        stated = tuple(int(side) for side in self.listed.sizes[index])
        if any(stated) and stated != (height, width):
            raise DataError(
                f"image {path} has {width}x{height} pixels, but {self.listed.where} says {stated[1]}x{stated[0]}; its "
                "annotations belong to another version of the image (or to one that is not rotated by its EXIF tag)"
            )
        return image, self._target(index, (height, width))

    def _of(self, index: int) -> slice:
        index = at_index(index, len(self))
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def _target(self, index: int, size: tuple[int, int]) -> dict[str, Any]:
        from torchvision import tv_tensors

        here, objects = self._of(index), self.objects
        target: dict[str, Any] = {
            "image_id": int(self.listed.ids[index]),
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(objects.boxes[here].copy()),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=size,
            ),
            "labels": torch.from_numpy(objects.labels[here].copy()),
            "area": torch.from_numpy(objects.areas[here].copy()),
            "iscrowd": torch.from_numpy(objects.crowd[here].copy()),
        }
        if self.target == "masks":
            packed = [objects.masks[at] for at in range(here.start, here.stop)]
            try:
                target["masks"] = tv_tensors.Mask(torch.from_numpy(decoded(packed, *size)))
            except Unreadable as error:
                raise DataError(f"{self.listed.where}, image {self.listed.files.text(index)}: {error}") from error
        if self.target == "keypoints":
            points = torch.from_numpy(objects.points[here].copy())
            target["keypoints"] = tv_tensors.KeyPoints(points[..., :2], canvas_size=size)
            target["visible"] = points[..., 2].long()
        return target
