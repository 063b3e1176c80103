"""Label maps that number single objects, of one class. `instances:FOLDER`, which looks like that of `folder`.

Maps store 0 for the background and any other number for the pixels of one object. A line in `classes.txt` names the
class. Where a class at every pixel is wanted, there are two: the background and the class.
"""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.optional import needs
from edakari.errors import DataError
from edakari.tasks.sources.class_lists import read_class_list
from edakari.tasks.sources.examples import Examples, Target, Wanted
from edakari.tasks.sources.label_maps import MappedImages, Numbering, Pairs, mapped, stored_map
from edakari.tasks.sources.map_folders import PairedFolder, paired_folder

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["InstanceImages", "instances"]

NUMBERS = 2**16
"""Numbers of objects that a map of 16 bits can store."""


def instances(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read a folder of images and maps of objects.

    Args:
        argument: the folder.
        wanted: what the task asks for.

    Raises:
        DataError: nothing of this form is there, a file is damaged, or it lacks what is wanted.
    """
    if wanted.target == "keypoints":
        raise DataError("maps of objects have boxes, masks and a class at every pixel, but keypoints are wanted")
    train, val = paired_folder(Path(argument))
    first = _read(train, wanted)
    return first, _read(val, wanted.like(first)) if val else None


@dc.dataclass(frozen=True, eq=False)
class InstanceImages:
    """Images with the objects of label maps; see `edakari.tasks.sources.examples.Examples`.

    Args:
        pairs: the images and maps.
        target: what a target has.
    """

    pairs: MappedImages
    target: Target

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of the one class."""
        return self.pairs.classes[1:]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know about the data."""
        return self.pairs.notes

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, int32 [N, 2]."""
        return self.pairs.sizes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading annotated images"):
            from torchvision import tv_tensors
            from torchvision.ops import masks_to_boxes

        image, target = self.pairs[index]
        index = target["image_id"]
        paths = [self.pairs.root / each.text(index) for each in (self.pairs.images, self.pairs.maps)]
        stored = torch.from_numpy(stored_map(paths[0], paths[1], colours=False))
        masks = stored == torch.unique(stored[stored > 0])[:, None, None]
        # the last row and column of a mask are inside of its box
        boxes = masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        found = {
            "image_id": index,
            "boxes": tv_tensors.BoundingBoxes(
                boxes.float().reshape(-1, 4),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=(stored.shape[0], stored.shape[1]),
            ),
            "labels": torch.zeros(len(masks), dtype=torch.int64),
            "area": masks.flatten(1).sum(1).float(),
            "iscrowd": torch.zeros(len(masks), dtype=torch.bool),
        }
        if self.target == "masks":
            found["masks"] = tv_tensors.Mask(masks.to(torch.uint8))
        return image, found


def _read(found: PairedFolder, wanted: Wanted) -> MappedImages | InstanceImages:
    where = f"folder {str(found.root)!r}"
    names = read_class_list(found.classes, where).classes if found.classes else ("object",)
    if len(names) != 1:
        raise DataError(f"{where}: {found.classes} names {len(names)} classes, but numbers of objects tell no classes")
    before = ("background", *wanted.classes) if wanted.classes and wanted.target != "map" else wanted.classes
    asked = dc.replace(wanted, classes=before)
    numbering = Numbering.of({0: 0, **dict.fromkeys(range(1, NUMBERS), 1)})
    pairs = Pairs(where, found.root, found.images, found.maps, ("background", *names), numbering)
    examples = mapped(pairs, asked)
    return examples if wanted.target == "map" else InstanceImages(examples, wanted.target)
