"""Otsu's threshold, which splits numbers into small and large ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["otsu"]


def otsu(figures: Sequence[float], trim: float = 0.2) -> float:
    """Return the threshold that best separates numbers into two classes, after trimming (Otsu, 1979).

    Args:
        figures: finite numbers.
        trim: fraction of the numbers that is left out at each end, rounded up.

    Returns:
        The mean of the two numbers at the split with the largest between-class variance; infinite if fewer than two
        numbers are left.
    """
    out = math.ceil(trim * len(figures))
    trimmed = np.sort(np.asarray(figures, dtype=np.float64))[out : len(figures) - out]
    count = len(trimmed)
    if count < 2:
        return math.inf
    split = np.arange(1, count)
    below = np.cumsum(trimmed)[:-1]
    between = split * (count - split) * (below / split - (trimmed.sum() - below) / (count - split)) ** 2
    best = int(np.argmax(between))
    return float((trimmed[best] + trimmed[best + 1]) / 2)
