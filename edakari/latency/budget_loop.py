"""Rounds of the closed loop: measured networks, the factors that led to them, and the factor to solve with next.

The factor starts at 1. After each measurement, it becomes the factor that makes the cost right for the network just
measured. Sizes are discrete and timings are noisy, so a factor can lead back to a network that was measured before. The
next factor then is the geometric mean of a factor that gave too slow a network and one that gave a fast enough network.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Sequence

from edakari.core.plan import Plan
from edakari.core.space import Sizes
from edakari.core.steady import MISS
from edakari.latency.predicted import PredictedLatency
from edakari.latency.target import LatencyTarget, TimedPair

__all__ = [
    "MISS",
    "LoopRound",
    "LoopSettings",
    "Trials",
    "affine",
    "proportional",
]

ROUNDS = 5
"""Largest number of networks that are measured."""


@dc.dataclass(frozen=True, slots=True)
class LoopRound:
    """One measured network.

    Args:
        factor: factor of the cost with which the allocation was solved.
        predicted_ms: latency that this cost predicts, ms.
        timing: timings of this network and of the dense one.
        relative_error: distance of its latency above the limit, as a fraction of the limit.
        sizes: sizes of the pruned groups.
    """

    factor: float
    predicted_ms: float
    timing: TimedPair
    relative_error: float
    sizes: Sizes


Correct = Callable[[Sequence[LoopRound], int, LatencyTarget, PredictedLatency], float]
"""From all rounds, the index of the latest one, the target and the cost: the factor that would have been right."""


def proportional(rounds: Sequence[LoopRound], index: int, target: LatencyTarget, latency: PredictedLatency) -> float:
    """Return the factor that makes the cost right for the network just measured; for costs that are nearly right."""
    return target.limit_ms * (1.0 + rounds[index].relative_error) / latency.total(rounds[index].sizes)


def affine(rounds: Sequence[LoopRound], index: int, target: LatencyTarget, latency: PredictedLatency) -> float:
    """Return the factor from a straight line through two measured networks; for costs that only grow with the latency.

    The two networks are the nearest ones above and below the limit, or the two nearest ones if all are slower. The
    dense network is one of the measured networks.
    """
    points = {latency.total(each.sizes): target.limit_ms * (1.0 + each.relative_error) for each in rounds}
    points.setdefault(latency.total({}), target.speed_ms)
    slow = sorted(((ms, total) for total, ms in points.items() if ms > target.limit_ms))
    quick = max(((ms, total) for total, ms in points.items() if ms <= target.limit_ms), default=None)
    if not slow or (quick is None and len(slow) == 1):
        return proportional(rounds, index, target, latency)
    (upper_ms, upper), (lower_ms, lower) = (slow[0], quick) if quick else (slow[1], slow[0])
    if upper_ms == lower_ms:
        return proportional(rounds, index, target, latency)
    total = lower + (target.limit_ms - lower_ms) * (upper - lower) / (upper_ms - lower_ms)
    return target.limit_ms / total if 0.0 < total < upper else proportional(rounds, index, target, latency)


@dc.dataclass(frozen=True, slots=True)
class LoopSettings:
    """Settings of the closed loop.

    Args:
        rounds: largest number of networks that are measured.
        correct: function that returns the factor that would have been right.
    """

    rounds: int = ROUNDS
    correct: Correct = proportional


@dc.dataclass
class Trials:
    """Measured networks and the factors that led to them, for one latency.

    Args:
        target: latency limit, with all known latencies of the dense network.
        correct: function that returns the factor that would have been right.
        rounds: one round for each network.
        plans: plan of each round, as it was solved.
        asked: each factor that was solved with, and the index of the round that it led to.
    """

    target: LatencyTarget
    correct: Correct = proportional
    rounds: list[LoopRound] = dc.field(default_factory=list)
    plans: list[Plan] = dc.field(default_factory=list)
    asked: list[tuple[float, int]] = dc.field(default_factory=list)

    def index(self, sizes: Sizes) -> int | None:
        """Index of the round of a known network; None if it is unknown."""
        return next((index for index, each in enumerate(self.rounds) if each.sizes == sizes), None)

    def add(self, plan: Plan, factor: float, predicted_ms: float, timing: TimedPair, sizes: Sizes) -> int:
        """Add a new network; its timing of the dense network changes the errors of all rounds."""
        self.target = self.target.seen(timing)
        self.plans.append(plan)
        self.rounds.append(LoopRound(factor, predicted_ms, timing, 0.0, sizes))
        self.rounds = [dc.replace(each, relative_error=self.target.relative_error(each.timing)) for each in self.rounds]
        return len(self.rounds) - 1

    @property
    def slowest(self) -> float:
        """Largest factor that led to too slow a network; 0 if there is none."""
        return max((each for each, other in self.asked if self.rounds[other].relative_error > 0), default=0.0)

    def next_factor(self, factor: float, index: int, latency: PredictedLatency) -> float | None:
        """Return the factor to solve with next; None if another factor makes no difference."""
        known = any(index == other for _, other in self.asked)
        self.asked.append((factor, index))
        slow = self.slowest
        quick = min((each for each, other in self.asked if self.rounds[other].relative_error <= 0), default=math.inf)
        bracketed = 0.0 < slow < quick < math.inf
        if known and not bracketed:
            return None
        right = self.correct(self.rounds, index, self.target, latency)
        return math.sqrt(slow * quick) if bracketed and (known or not slow < right < quick) else right
