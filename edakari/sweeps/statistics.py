"""Means, standard deviations and confidence intervals of few runs."""

from __future__ import annotations

import dataclasses as dc
import math
import statistics
from collections.abc import Mapping, Sequence

__all__ = ["Difference", "Spread", "paired", "spread_of", "t_quantile"]

CONFIDENCE = 0.95


@dc.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of some numbers.

    Args:
        mean: their mean.
        std: their standard deviation, with n - 1 in the denominator; None for a single number.
        count: how many there are.
    """

    mean: float
    std: float | None
    count: int


@dc.dataclass(frozen=True)
class Difference:
    """Mean difference of pairs, with its 95 % confidence interval by Student's t.

    Args:
        mean: mean difference.
        low: lower end of the interval; None for a single pair, which has none.
        high: upper end of the interval; None as before.
        count: number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval includes 0; None if there is none."""
        return None if self.low is None or self.high is None else self.low <= 0 <= self.high


def spread_of(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of at least one number."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Compare two settings by the seeds that both have.

    Args:
        ours: value by seed.
        theirs: value by seed.

    Returns:
        The mean of ours minus theirs, with its interval; None if no seed is common.
    """
    found = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not found:
        return None
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Difference(mean, None, None, 1)
    half = t_quantile((1 + CONFIDENCE) / 2, len(found) - 1) * statistics.stdev(found) / math.sqrt(len(found))
    return Difference(mean, mean - half, mean + half, len(found))


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, by bisection.

    Args:
        probability: from 0.5 up to less than 1.
        degrees: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while _below(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, degrees) < probability else (low, middle)
    return high


def _below(t: float, degrees: int) -> float:
    """Distribution function at t >= 0; Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for number in range(2 + odd, degrees - 1, 2):
        term *= square * (number - 1) / number
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + within / 2
