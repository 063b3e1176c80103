"""Annotated images at the network's size: resizing, letterboxing, random changes, and the way back for predictions.

All geometry is torchvision's (transforms v2 on tv_tensors), which moves boxes, masks and keypoints with the image.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any, Literal

import torch

from edakari.tasks.preprocessing import Preprocessing
from edakari.tasks.settings import Augment
from edakari.tasks.transforms import torchvision_transforms

__all__ = ["GREY", "Placing", "Resize", "inner_size", "mirrored_pairs", "rows_of", "sent_back"]

GREY = 114
"""Fill of letterboxes, the value that detectors are usually trained with."""
OBJECTS = ("boxes", "labels", "area", "iscrowd", "masks", "keypoints", "visible")
"""Entries of a target with one row for each object."""
Target = dict[str, Any]
Resize = Literal["stretch", "letterbox"]


@dc.dataclass(frozen=True)
class Placing:
    """Makes the transforms of annotated images; see `edakari.tasks.example_data.Prepare`.

    "light" mirrors half of the images and, without keypoints, crops them as SSD does (Liu et al., 2016, section 2.2);
    "jitter" changes their colours too.

    Args:
        size: height and width of the network's input.
        resize: "stretch", or "letterbox", which keeps the aspect.
        flip_pairs: keypoints that change places in a mirrored image.
    """

    size: tuple[int, int]
    resize: Resize = "stretch"
    flip_pairs: tuple[tuple[int, int], ...] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """What happens to images in evaluation."""
        return Preprocessing(self.resize, self.size, self.size, fill=GREY)

    def __call__(self, augment: Augment) -> Placed:
        """Return the transform of an augmentation."""
        return Placed(self, augment)


@dc.dataclass(frozen=True)
class Placed:
    """Transform from an image of any size and its target to the network's size.

    The target gains `original`, int64 [2], height and width of the image as it was, and `placed`, float32 [4]: scale
    in x and y, and the offset in x and y, so that x becomes `scale_x * x + offset_x`.

    Args:
        placing: size and kind of the resizing.
        augment: augmentation; "none" changes nothing at random.
    """

    placing: Placing
    augment: Augment

    def __call__(self, image: Any, target: Target) -> tuple[torch.Tensor, Target]:
        """Transform an image, uint8 [3, H, W], and its target."""
        v2 = torchvision_transforms()
        if self.augment != "none":
            image, target = self._augmented(image, dict(target))
        height, width = image.shape[-2:]
        high, wide = self.placing.size
        inner = inner_size((height, width), self.placing.size, self.placing.resize)
        top, left = (high - inner[0]) // 2, (wide - inner[1]) // 2
        image, target = v2.Resize(inner, antialias=True)(image, target)
        if inner != (high, wide):
            border = [left, top, wide - inner[1] - left, high - inner[0] - top]
            image, target = v2.Pad(border, fill={_image_type(): GREY, "others": 0})(image, target)
        placed = torch.tensor([inner[1] / width, inner[0] / height, left, top], dtype=torch.float32)
        target = {**target, "original": torch.tensor([height, width]), "placed": placed}
        return torch.as_tensor(image).as_subclass(torch.Tensor), _without_empty(target)

    def _augmented(self, image: Any, target: Target) -> tuple[Any, Target]:
        v2 = torchvision_transforms()
        if self.augment == "jitter":
            image, target = v2.RandomPhotometricDistort()(image, target)
        if "keypoints" not in target and len(target["boxes"]):
            image, target = v2.RandomIoUCrop()(image, target)
        if torch.rand(()) < 0.5:
            image, target = v2.RandomHorizontalFlip(p=1)(image, target)
            target = mirrored_pairs(target, self.placing.flip_pairs)
        return image, _without_empty(target)


def inner_size(original: tuple[int, int], size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Return height and width of an image inside of the network's input; a letterbox keeps its aspect.

    Args:
        original: height and width of the image.
        size: height and width of the network's input.
        resize: "stretch" or "letterbox".
    """
    scale_y, scale_x = size[0] / original[0], size[1] / original[1]
    if resize == "letterbox":
        scale_y = scale_x = min(scale_y, scale_x)
    return max(1, round(original[0] * scale_y)), max(1, round(original[1] * scale_x))


def mirrored_pairs(target: Target, pairs: tuple[tuple[int, int], ...]) -> Target:
    """Return a target whose keypoints have changed places in pairs, such as the left and the right eye."""
    if "keypoints" not in target or not pairs:
        return target
    order = list(range(target["keypoints"].shape[1]))
    for first, second in pairs:
        order[first], order[second] = second, first
    wrap = type(target["keypoints"])
    moved = torch.as_tensor(target["keypoints"]).as_subclass(torch.Tensor)[:, order]
    again = moved if wrap is torch.Tensor else wrap(moved, canvas_size=target["keypoints"].canvas_size)
    return {**target, "keypoints": again, "visible": target["visible"][:, order]}


def sent_back(boxes: torch.Tensor, placed: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Return boxes of the network's input in pixels of the image as it was.

    Args:
        boxes: float [n, 4], XYXY.
        placed: scales and offsets, float [4]; see `Placed`.
        original: height and width of the image, int64 [2].
    """
    scale, offset = placed[:2].repeat(2).to(boxes), placed[2:].repeat(2).to(boxes)
    return torch.minimum(((boxes - offset) / scale).clamp(min=0), original.flip(0).repeat(2).to(boxes))


def _without_empty(target: Target) -> Target:
    """The target without objects that a crop has left without area; visible keypoints are inside of the image."""
    if "boxes" not in target:
        return target
    boxes = torch.as_tensor(target["boxes"])
    stay = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    if bool(stay.all()):
        return target
    return {name: rows_of(value, stay) if name in OBJECTS else value for name, value in target.items()}


def rows_of(value: Any, stay: torch.Tensor | slice) -> Any:
    """Return rows of a tensor, which stays of the class that transforms need."""
    from torchvision import tv_tensors

    return tv_tensors.wrap(value[stay], like=value) if isinstance(value, tv_tensors.TVTensor) else value[stay]


def _image_type() -> Any:
    from torchvision import tv_tensors

    return tv_tensors.Image
