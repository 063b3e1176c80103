"""Otsu's threshold, which splits numbers into small and large ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["otsu"]


def otsu(figures: Sequence[float], trim: float = 0.2) -> float:
    """The threshold that separates numbers best into two classes (Otsu, 1979), without the extremes.

    Args:
        figures: finite numbers.
        trim: fraction of them that is left out at each end, rounded up.

    Returns:
        The middle between the two numbers at the split with the largest between-class variance; infinite if fewer than
        two numbers are left.
    """
    out = math.ceil(trim * len(figures))
    kept = np.sort(np.asarray(figures, dtype=np.float64))[out : len(figures) - out]
    count = len(kept)
    if count < 2:
        return math.inf
    split = np.arange(1, count)
    below = np.cumsum(kept)[:-1]
    between = split * (count - split) * (below / split - (kept.sum() - below) / (count - split)) ** 2
    best = int(np.argmax(between))
    return float((kept[best] + kept[best + 1]) / 2)
