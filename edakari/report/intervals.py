"""Confidence intervals of accuracies."""

from __future__ import annotations

import math

__all__ = ["difference", "wilson"]

NORMAL = 1.959964
"""Quantile of the normal distribution for two-sided intervals of 95 %."""


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of a fraction of independent examples.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        fraction: fraction of correct examples, in 0 to 1.
        count: number of examples, at least 1.
    """
    z = NORMAL**2 / count
    centre = (fraction + z / 2) / (1 + z)
    half = NORMAL / (1 + z) * math.sqrt(fraction * (1 - fraction) / count + z / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def difference(lost: int, gained: int, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of the difference of two accuracies on the same examples.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005: Wald's interval
    with half an example added to each of the four cells.

    Args:
        lost: number of examples that only the first network classifies correctly.
        gained: number of examples that only the second network classifies correctly.
        count: number of all examples.

    Returns:
        Lower and upper end of the second accuracy minus the first one.
    """
    first, second, whole = lost + 0.5, gained + 0.5, count + 2
    middle = (second - first) / whole
    half = NORMAL / whole * math.sqrt(first + second - (second - first) ** 2 / whole)
    return max(-1.0, middle - half), min(1.0, middle + half)
