"""Labelled images in memory."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

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

    def pixels(self, index: int) -> torch.Tensor:
        """Return one image as a tensor, uint8 [C, H, W]."""
        return torch.from_numpy(self.images[index]).permute(2, 0, 1)

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return int(self.images.shape[3])

    def identity(self) -> bytes:
        """Bytes by which data sets are told apart: the pixels."""
        return self.images.tobytes()
