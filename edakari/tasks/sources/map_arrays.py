"""Images and label maps of .npz files, in memory: `npz:FILE.npz`.

A file holds `images`, uint8 [N, H, W, C] or [N, H, W], and `labels`, integers [N, H, W]; `class_names` may be there.
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
from edakari.tasks.sources.examples import Examples, Wanted, at_index
from edakari.tasks.sources.label_maps import require_map
from edakari.tasks.sources.npz import CLASSES, read_npz

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["MapArrays", "image_at", "npz"]


@dc.dataclass(frozen=True, eq=False)
class MapArrays:
    """Images and label maps in memory; see `edakari.tasks.sources.examples.Examples`.

    Args:
        images: images, uint8 [N, H, W, 1 or 3].
        maps: labels, integers [N, H, W].
        classes: names in order of the labels.
        ignore_index: label of pixels that do not count.
    """

    images: npt.NDArray[np.uint8]
    maps: npt.NDArray[Any]
    classes: tuple[str, ...]
    ignore_index: int

    @property
    def channels(self) -> int:
        """Channels of the stored images, 1 or 3."""
        return int(self.images.shape[3])

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, int32 [N, 2]."""
        return np.tile(np.array(self.maps.shape[1:], np.int32), (len(self), 1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading annotated images"):
            from torchvision import tv_tensors

        index = at_index(index, len(self))
        labels = torch.from_numpy(self.maps[index].astype(np.int64))
        return image_at(self.images, index), {"image_id": index, "map": tv_tensors.Mask(labels)}


def image_at(images: npt.NDArray[np.uint8], index: int) -> Image:
    """Return an image of an array uint8 [N, H, W, 1 or 3], uint8 [3, H, W]."""
    with needs("train", "reading annotated images"):
        from torchvision import tv_tensors

    return tv_tensors.Image(torch.from_numpy(images[index]).permute(2, 0, 1).expand(3, -1, -1).contiguous())


def npz(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read an .npz file with label maps.

    Args:
        argument: the file.
        wanted: what the task asks for: a class at every pixel.

    Raises:
        DataError: the file is missing, damaged, of another form, or lacks what is wanted.
    """
    require_map("an .npz file", wanted)
    images, labels, stated = read_npz(Path(argument))
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:3]:
        raise DataError(
            f"{argument}: `labels` must be integers {list(images.shape[:3])}, one for each pixel, found {labels.dtype} "
            f"{list(labels.shape)}"
        )
    counted = labels[labels != wanted.ignore_index]
    low, high = (int(counted.min()), int(counted.max())) if counted.size else (0, -1)
    names = wanted.classes or stated or tuple(str(number) for number in range(min(high + 1, CLASSES)))
    if not counted.size or low < 0 or high >= len(names):
        span = f"from {low} to {high}" if counted.size else "that all are ignored"
        raise DataError(
            f"{argument}: labels {span}, but there are {len(names)} classes (from 0 on); pixels that do not count have "
            f"{wanted.ignore_index}"
        )
    if len(names) < 2 or (wanted.classes is None and low == high):
        raise DataError(f"{argument}: all pixels are of one class; there is nothing to tell apart")
    return MapArrays(images, labels, names, wanted.ignore_index), None
