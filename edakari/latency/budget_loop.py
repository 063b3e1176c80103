"""The closed loop: measure the whole pruned network; solve the allocation again if it misses its latency.

The allocation is solved with the cost times one factor. The factor starts at 1. After each measurement, it becomes the
factor that makes the cost right for the network just measured. Sizes are discrete and timings are noisy, so a factor
can lead back to a network that was measured before. The next factor then is the geometric mean of a factor that gave
too slow a network and one that gave a fast enough network.
"""

from __future__ import annotations

import dataclasses as dc
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from edakari.core.budget import Budget
from edakari.core.method import Solve
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.core.space import Sizes
from edakari.core.steady import MISS
from edakari.errors import InfeasibleBudget, MeasurementError
from edakari.latency.bench import MAX_ATTEMPTS, Bench
from edakari.latency.predicted import PredictedLatency
from edakari.latency.timing import Timing

__all__ = [
    "MISS",
    "ClosedLoop",
    "LatencyTarget",
    "LoopRound",
    "LoopSettings",
    "TimedPair",
    "affine",
    "disturbed",
    "plain",
    "proportional",
    "retime_if_noisy",
]

NEAR = 0.01
"""Relative distance from the limit above which the allocation is solved again."""
DISTURBED = 0.03
"""A timing of the dense network counts as disturbed if it exceeds the fastest one by this fraction."""
NEAREST = 0.005
"""Relative difference of two factors below which the allocation is not solved again."""
ROUNDS = 5
"""Largest number of networks that are measured."""
SPARE = 7
"""Number of times that the allocation may be solved beyond the rounds, as some factors lead to known networks."""


@dc.dataclass(frozen=True, slots=True)
class TimedPair:
    """Latencies of the dense and the pruned network, timed alternately."""

    dense: Timing
    pruned: Timing


@dc.dataclass(frozen=True, slots=True)
class LatencyTarget:
    """The latency limit, and the latencies of the dense network.

    Args:
        limit_ms: largest latency that the budget allows, ms.
        dense_ms: latency of the dense network in each measurement, ms.
        relative: whether the limit is a fraction of the first of these latencies; later ones are then ignored.
    """

    limit_ms: float
    dense_ms: tuple[float, ...]
    relative: bool

    @classmethod
    def of(cls, asked: Budget, dense_ms: float) -> LatencyTarget:
        """Create the target of a budget on the latency, after the dense network was timed for the first time."""
        term = asked.term("latency")
        assert term is not None
        return cls(term.limit * (dense_ms if term.relative else 1.0), (dense_ms,), term.relative)

    def seen(self, pair: TimedPair) -> LatencyTarget:
        """Return the target after one more measurement of the dense network, which shows how fast the machine is."""
        return self if self.relative else dc.replace(self, dense_ms=(*self.dense_ms, pair.dense.median_ms))

    @property
    def speed_ms(self) -> float:
        """Latency of the dense network on an undisturbed machine, ms: the median of the undisturbed timings."""
        return statistics.median(each for each in self.dense_ms if not disturbed(each, min(self.dense_ms)))

    def relative_error(self, pair: TimedPair) -> float:
        """Distance of a network's latency above the limit, as a fraction of the limit.

        Both networks were timed alternately, so the ratio of their latencies does not depend on the speed of the
        machine at that time.
        """
        return pair.pruned.ratio * self.speed_ms / self.limit_ms - 1.0


def disturbed(dense_ms: float, quickest_ms: float) -> bool:
    """Whether the timing of the dense network shows that another program ran on the machine."""
    return dense_ms > (1.0 + DISTURBED) * quickest_ms


def retime_if_noisy(bench: Bench, dense: nn.Module, pruned: nn.Module, quickest_ms: float) -> TimedPair:
    """Time both networks alternately; try again if the machine was disturbed, as this changes the ratio too.

    Args:
        bench: how and where the networks are timed.
        dense: the dense network.
        pruned: the pruned network.
        quickest_ms: smallest latency of the dense network so far, ms.

    Raises:
        MeasurementError: the machine is too noisy at the first attempt.
    """
    networks = {"dense": dense, "pruned": pruned}
    best = TimedPair(**bench.steady(networks))
    for _ in range(MAX_ATTEMPTS - 1):
        if not disturbed(best.dense.median_ms, quickest_ms):
            break
        try:
            again = TimedPair(**bench.steady(networks))
        except MeasurementError:  # the machine became noisier
            break
        best = min(best, again, key=lambda pair: pair.dense.median_ms)
    return best


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


@dc.dataclass(frozen=True)
class ClosedLoop:
    """Finds the plan whose network comes nearest to a latency limit and exceeds it by at most `MISS`.

    Args:
        latency: predicted latency.
        target: latency limit.
        measure: function that times the network of a plan and the dense network alternately.
        tell: callback that takes the number of each round, counted from 1, and the round.
        settings: settings of the loop.
    """

    latency: PredictedLatency
    target: LatencyTarget
    measure: Callable[[Plan], TimedPair]
    tell: Callable[[int, LoopRound], None]
    settings: LoopSettings = LoopSettings()

    def run(self, solve: Solve, costs: Sequence[Cost], before: Plan | None) -> tuple[Plan, tuple[LoopRound, ...]]:
        """Return the plan and all rounds in order; see `edakari.core.method.MeetBudget`.

        Raises:
            MeasurementError: every measured network lies above the limit.
            InfeasibleBudget: no allocation meets the limit according to the predictions, and no measured network does.
        """
        trials, factor = _Trials(self.target, self.settings.correct), 1.0
        beyond: InfeasibleBudget | None = None

        def solved(factor: float) -> Plan:
            scaled = self.latency.scaled(factor)
            return solve([scaled if cost.name == scaled.name else cost for cost in costs])

        for _ in range(self.settings.rounds + SPARE):
            try:
                plan = solved(factor)
            except InfeasibleBudget as error:
                edge = _edge(solved, trials.asked[-1][0], factor) if trials.asked and trials.best() is None else None
                if edge is None:
                    beyond = error
                    break  # no plan can come nearer than those that were measured
                plan, factor = edge
            index = self._tried(trials, plan, factor, before)
            if abs(trials.rounds[index].relative_error) <= NEAR or len(trials.rounds) == self.settings.rounds:
                break
            following = trials.next_factor(factor, index, self.latency)
            if following is None:
                break  # the allocation no longer depends on the latency
            factor = following
        best = trials.best()
        if best is None:
            raise beyond or _missed(trials.rounds, trials.target)
        return trials.plans[best], tuple(trials.rounds)

    def _tried(self, trials: _Trials, plan: Plan, factor: float, before: Plan | None) -> int:
        """Return the index of the round of a plan's network; measure the network unless it is known."""
        whole = before.then(plan) if before else plan
        sizes = whole.sizes()
        index = trials.index(sizes)
        if index is None:
            index = trials.add(plan, factor, factor * self.latency.total(sizes), self.measure(whole), sizes)
            self.tell(len(trials.rounds), trials.rounds[index])
        return index


@dc.dataclass
class _Trials:
    """Measured networks, and the factors that led to them.

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

    def best(self) -> int | None:
        """Index of the round nearest to the limit among those that are fast enough."""
        allowed = [index for index, each in enumerate(self.rounds) if each.relative_error <= MISS]
        return min(allowed, key=lambda index: abs(self.rounds[index].relative_error), default=None)

    def next_factor(self, factor: float, index: int, latency: PredictedLatency) -> float | None:
        """Return the factor to solve with next; None if another factor makes no difference."""
        known = any(index == other for _, other in self.asked)
        self.asked.append((factor, index))
        slow = max((each for each, other in self.asked if self.rounds[other].relative_error > 0), default=0.0)
        quick = min((each for each, other in self.asked if self.rounds[other].relative_error <= 0), default=math.inf)
        bracketed = 0.0 < slow < quick < math.inf
        if known and not bracketed:
            return None
        right = self.correct(self.rounds, index, self.target, latency)
        return math.sqrt(slow * quick) if bracketed and (known or not slow < right < quick) else right


def _edge(solved: Callable[[float], Plan], possible: float, impossible: float) -> tuple[Plan, float] | None:
    """Return a plan of about the largest feasible factor, and this factor; None if there is no larger one.

    The factor also scales costs that do not depend on sizes, such as those of token selectors. A factor can therefore
    make a network infeasible that meets the limit.
    """
    found = None
    while impossible > (1.0 + NEAREST) * possible:
        between = math.sqrt(possible * impossible)
        try:
            found = solved(between), between
            possible = between
        except InfeasibleBudget:
            impossible = between
    return found


def plain(found: LoopRound) -> dict[str, Any]:
    """Convert a round to the values that JSON holds."""
    return {**dc.asdict(found), "sizes": dict(found.sizes)}


def _missed(rounds: Sequence[LoopRound], target: LatencyTarget) -> MeasurementError:
    nearest = min(rounds, key=lambda each: each.relative_error)
    pruned = nearest.timing.pruned
    lower = target.limit_ms / (1.0 + nearest.relative_error)
    return MeasurementError(
        f"the pruned network takes {pruned.median_ms:.3g} ms (± {pruned.spread / 2:.1g} ms), compared with "
        f"{nearest.timing.dense.median_ms:.3g} ms of the dense one: {nearest.relative_error:.1%} "
        f"above the budget of {target.limit_ms:.3g} ms, the best of {len(rounds)} measured networks. Close other "
        f"programs and retry, or set the budget to about {lower:.3g} ms."
    )
