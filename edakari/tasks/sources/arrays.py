"""Labelled images in memory."""

from __future__ import annotations

import dataclasses as dc
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Arrays", "Labels"]

Labels = npt.NDArray[np.int64]


@dc.dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory.

    Args:
        images: images, uint8 [N, H, W, C].
        labels: labels, int64 [N]; multi-label 0 and 1 [N, classes]; per pixel [N, H, W]; numbers, float32 [N, K].
        classes: name of each class; empty where images have numbers.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[Any]
    classes: tuple[str, ...]

    def take(self, indices: npt.NDArray[np.int64]) -> Arrays:
        """The images at these indices, in their order."""
        return Arrays(self.images[indices], self.labels[indices], self.classes)

    def image(self, index: int) -> Image.Image:
        """Return one image as a PIL image, "L" or "RGB"."""
        with needs("train", "reading images"):
            from PIL import Image

        pixels = self.images[index]
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return int(self.images.shape[3])

    def identity(self) -> bytes:
        """Bytes by which data sets are told apart: the pixels."""
        return self.images.tobytes()
