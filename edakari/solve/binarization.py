"""A threshold between small and large figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["otsu"]


def otsu(figures: Sequence[float], trim: float = 0.2) -> float:
    """Where figures part best into two (Otsu, 1979), without the extremes.

    Args:
        figures: finite.
        trim: share of them that is left out at either end, rounded up.

    Returns:
        Middle of the two neighbours at the split of largest variance between its sides; infinite where fewer than two
        figures are left.
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
