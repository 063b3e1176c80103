"""Items of data sets of somebody else: checked, and brought to the form of `examples.Examples`."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edakari.core.optional import needs
from edakari.errors import DataError
from edakari.tasks.sources.depth import metric_depth
from edakari.tasks.sources.examples import Wanted
from edakari.tasks.sources.mending import FAULTS, Fault, inside_image

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["Converter"]


@dc.dataclass(frozen=True)
class Converter:
    """Makes images and targets of the contract of what a data set gives.

    Args:
        where: the data set, as the subject of a sentence.
        classes: names in order of the labels.
        wanted: what the task asks for.
        joints: number of keypoints of an object; 0 where it is not known.
    """

    where: str
    classes: tuple[str, ...]
    wanted: Wanted
    joints: int = 0

    def __call__(self, item: Any, index: int) -> tuple[Image, dict[str, Any]]:
        """Convert an item.

        Args:
            item: pair of an image (a PIL image; uint8 or float from 0 to 1 [3, H, W]; uint8 array [H, W, 3]) and a
                target, a mapping with the keys of the contract. Boxes may be tv_tensors of any format, or numbers
                [n, 4], left, top, right and bottom; `keypoints` may have a third column of visibility; `area`,
                `iscrowd` and `image_id` may be left out. Where a class at every pixel is wanted, the target may be the
                map itself, and the depths where depths are wanted; images alone need no pair.
            index: index of the item, for errors.

        Raises:
            DataError: the item is of another form; says what was expected and what came.
        """
        if self.wanted.target == "image" and not isinstance(item, tuple | list):
            item = item, {}
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise self._wrong(index, "a pair (image, target)", item)
        from torchvision import tv_tensors

        image = tv_tensors.Image(self._pixels(item[0], index))
        size, target = (int(image.shape[-2]), int(image.shape[-1])), item[1]
        if self.wanted.target in ("map", "depth", "image"):
            number = target.get("image_id", index) if isinstance(target, Mapping) else index
            return image, {"image_id": int(number), **self._at_pixels(target, size, index)}
        if not isinstance(target, Mapping):
            hint = "; torchvision's data sets give one after `wrap_dataset_for_transforms_v2`"
            raise self._wrong(index, f"a target that is a mapping with `boxes` and `labels`{hint}", target)
        missing = [key for key in self._keys if key not in target]
        if missing:
            raise self._wrong(index, f"a target with the keys {list(self._keys)}", sorted(map(str, target)))
        return image, self._objects(target, size, index)

    @property
    def _keys(self) -> tuple[str, ...]:
        more = {"masks": ("masks",), "keypoints": ("keypoints",)}.get(self.wanted.target, ())
        return ("boxes", "labels", *more)

    def _pixels(self, image: Any, index: int) -> torch.Tensor:
        """uint8 [3, H, W] of an image in one of several forms."""
        with needs("train", "reading annotated images"):
            from PIL import Image

            from edakari.tasks.images import COLOURS
        if isinstance(image, Image.Image) and image.mode in COLOURS:
            # not rotated by its EXIF tag: the data set's boxes are those of the pixels that it gives
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
        expected = "an image (PIL, uint8 [3, H, W], float [3, H, W] from 0 to 1, or an uint8 array [H, W, 3])"
        if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] in (1, 3) and image.dtype == np.uint8:
            image = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if not isinstance(image, torch.Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
            raise self._wrong(index, expected, image)
        pixels = image.detach().as_subclass(torch.Tensor).cpu()
        if pixels.is_floating_point():
            if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
                span = f"from {float(pixels.min()):.4g} to {float(pixels.max()):.4g}"
                raise self._wrong(index, f"{expected}; leave normalisation to the task", f"float values {span}")
            pixels = (pixels * 255).round().to(torch.uint8)
        if pixels.dtype != torch.uint8:
            raise self._wrong(index, expected, image)
        return pixels.expand(3, -1, -1).contiguous()

    def _at_pixels(self, target: Any, size: tuple[int, int], index: int) -> dict[str, torch.Tensor]:
        """The map or the depths of a target, or of one that is nothing else."""
        wanted = self.wanted.target
        if wanted == "image":
            return {}
        stored = target.get(wanted) if isinstance(target, Mapping) else target
        return {wanted: self._map(stored, size, index) if wanted == "map" else self._depth(stored, size, index)}

    def _depth(self, stored: Any, size: tuple[int, int], index: int) -> torch.Tensor:
        from torchvision import tv_tensors

        found = self._numbers({"depth": [] if stored is None else stored}, "depth", (None,) * np.ndim(stored), index)
        found = found[0] if found.ndim == 3 and found.shape[0] == 1 else found
        if tuple(found.shape) != size or found.is_complex() or found.dtype == torch.bool:
            raise self._wrong(index, f"a `depth` of numbers of the image's size {list(size)}", stored)
        return tv_tensors.Mask(torch.from_numpy(metric_depth(found.numpy(), self.wanted.scale)))

    def _map(self, stored: Any, size: tuple[int, int], index: int) -> torch.Tensor:
        from torchvision import tv_tensors

        try:
            labels = torch.as_tensor(np.array(stored)) if not isinstance(stored, torch.Tensor) else stored
            labels = labels.as_subclass(torch.Tensor).cpu()
            if labels.is_floating_point() or labels.is_complex():
                raise TypeError
        except (TypeError, ValueError, RuntimeError):
            raise self._wrong(index, "a `map` of integers [H, W]", stored) from None
        labels = labels[0] if labels.ndim == 3 and labels.shape[0] == 1 else labels
        if tuple(labels.shape) != size:
            raise self._wrong(index, f"a `map` of the image's size {list(size)}", list(labels.shape))
        labels = labels.to(torch.int64)
        counted = labels[labels != self.wanted.ignore_index]
        self._check_labels(counted, index)
        return tv_tensors.Mask(labels.contiguous())

    def _check_labels(self, labels: torch.Tensor, index: int) -> None:
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise self._wrong(
                index,
                f"labels from 0 to {len(self.classes) - 1}, without a background, for the classes "
                f"{list(self.classes)[:6]}",
                f"labels from {int(labels.min())} to {int(labels.max())}",
            )

    def _objects(self, target: Mapping[str, Any], size: tuple[int, int], index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        boxes = self._boxes(target["boxes"], size, index)
        count = len(boxes)
        labels = self._numbers(target, "labels", (count,), index).to(torch.int64)
        self._check_labels(labels, index)
        sides = boxes[:, 2:] - boxes[:, :2]
        found: dict[str, Any] = {
            "labels": labels,
            "area": self._numbers(target, "area", (count,), index).float() if "area" in target else sides.prod(1),
            "iscrowd": self._numbers(target, "iscrowd", (count,), index).bool()
            if "iscrowd" in target
            else torch.zeros(count, dtype=torch.bool),
        }
        if self.wanted.target == "masks":
            found["masks"] = (self._numbers(target, "masks", (count, *size), index) != 0).to(torch.uint8)
        if self.wanted.target == "keypoints":
            found.update(self._keypoints(target, count, index))
        boxes, stays = self._mended(boxes, size, index)
        found = {key: value[stays] for key, value in found.items()}
        found["boxes"] = tv_tensors.BoundingBoxes(
            boxes[stays], format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size
        )
        if "masks" in found:
            found["masks"] = tv_tensors.Mask(found["masks"])
        if "keypoints" in found:
            found["keypoints"] = tv_tensors.KeyPoints(found["keypoints"], canvas_size=size)
        return {"image_id": int(target.get("image_id", index)), **found}

    def _boxes(self, boxes: Any, size: tuple[int, int], index: int) -> torch.Tensor:
        from torchvision import tv_tensors
        from torchvision.transforms.v2.functional import convert_bounding_box_format

        if isinstance(boxes, tv_tensors.BoundingBoxes):
            if tuple(boxes.canvas_size) != size:
                raise self._wrong(index, f"boxes on the image's canvas {list(size)}", list(boxes.canvas_size))
            boxes = convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
        return self._numbers({"boxes": boxes}, "boxes", (None, 4), index).float()

    def _keypoints(self, target: Mapping[str, Any], count: int, index: int) -> dict[str, torch.Tensor]:
        points = self._numbers(target, "keypoints", (count, None, None), index).float()
        joints = self.joints or points.shape[1]
        if not count:
            return {"keypoints": torch.zeros(0, joints, 2), "visible": torch.zeros(0, joints, dtype=torch.int64)}
        if points.shape[1] != joints:
            raise self._wrong(index, f"{joints} keypoints of each object", list(points.shape))
        if points.shape[2] == 3:
            return {"keypoints": points[..., :2], "visible": points[..., 2].to(torch.int64)}
        if points.shape[2] != 2 or "visible" not in target:
            raise self._wrong(index, "keypoints [n, K, 3], or [n, K, 2] and `visible` [n, K]", list(points.shape))
        return {
            "keypoints": points,
            "visible": self._numbers(target, "visible", (count, points.shape[1]), index).to(torch.int64),
        }

    def _mended(self, boxes: torch.Tensor, size: tuple[int, int], index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes inside of the image, and which objects stay by the policy."""
        clipped, faults = inside_image(boxes.numpy(), np.tile(np.array(size, np.int32), (len(boxes), 1)))
        if faults.any() and self.wanted.broken == "stop":
            at = int(np.flatnonzero(faults)[0])
            raise DataError(
                f"{self.where}, item {index}: box {at} has {FAULTS[faults[at]]}: {boxes[at].tolist()} in an image of "
                f"{size[1]}x{size[0]} pixels; mend it, or let the policy drop or clip such boxes"
            )
        stays = faults == Fault.NONE
        if self.wanted.broken == "clip":
            stays |= (faults == Fault.OUTSIDE) & (clipped[:, 2:] > clipped[:, :2]).all(1)
        return torch.from_numpy(clipped), torch.from_numpy(stays)

    def _numbers(self, target: Mapping[str, Any], key: str, shape: tuple[int | None, ...], index: int) -> torch.Tensor:
        """A tensor of this shape, None being any; an empty list is one without objects."""
        value = target[key]
        try:
            found = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.array(value))
            found = found.detach().as_subclass(torch.Tensor).cpu()
        except (TypeError, ValueError, RuntimeError):
            raise self._wrong(index, f"`{key}` of numbers", value) from None
        if not found.numel() and found.ndim < len(shape) and shape[0] in (0, None):
            found = found.reshape([0, *(each or 0 for each in shape[1:])])
        fits = found.ndim == len(shape) and all(
            each in (None, side) for each, side in zip(shape, found.shape, strict=True)
        )
        if not fits:
            said = ["n" if each is None else each for each in shape]
            raise self._wrong(index, f"`{key}` of the shape {said}", list(found.shape))
        return found

    def _wrong(self, index: int, expected: str, found: Any) -> DataError:
        return DataError(f"{self.where}, item {index}: expected {expected}, found {_said(found)}")


def _said(found: Any) -> str:
    """A value in a few words."""
    if isinstance(found, torch.Tensor | np.ndarray):
        return f"{type(found).__name__} {str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
    if isinstance(found, str):
        return found
    if isinstance(found, list) and all(isinstance(each, int | str) for each in found[:9]):
        return str(found[:9])
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}"
    mode = getattr(found, "mode", None)
    return f"a {type(found).__name__}" + (f" of mode {mode}" if isinstance(mode, str) else "")
