"""The closed loop: measure the whole pruned network; solve the allocation again if it misses its latency.

The allocation is solved with the cost times one factor, which `budget_loop` corrects after each measurement.

A budget with several latencies has a factor for each, and each network is timed for each. A network is fast enough if
every latency is. All factors are corrected after each round, but only latencies that bind, by the scaled predictions or
by measurement, are brought to their limits.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Mapping, Sequence

from edakari.core.budget import LATENCY
from edakari.core.method import Solve
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.core.space import Sizes
from edakari.errors import InfeasibleBudget, MeasurementError
from edakari.latency.budget_loop import MISS, LoopRound, LoopSettings, Trials
from edakari.latency.predicted import PredictedLatency
from edakari.latency.target import LatencyTarget, TimedPair

__all__ = ["ClosedLoop", "TimedLatency"]

NEAREST = 0.005
"""Relative difference of two factors below which the allocation is not solved again."""
SPARE = 7
"""Number of times that the allocation may be solved beyond the rounds, as some factors lead to known networks."""
BINDING = 0.01
"""A latency binds if its scaled prediction is this near to the largest one; both as fractions of their limits."""
UNCHANGED = 1e-9
"""Relative difference of two factors that is rounding."""


@dc.dataclass(frozen=True)
class TimedLatency:
    """One latency of a budget.

    Args:
        cost: predicted latency; its name is that of the budget's term.
        target: latency limit.
        measure: function that times the network of a plan and the dense network alternately.
        settings: settings of the loop.
    """

    cost: PredictedLatency
    target: LatencyTarget
    measure: Callable[[Plan], TimedPair]
    settings: LoopSettings


Factors = Mapping[str, float]
"""Factor of each latency's cost, by the name of the cost."""


@dc.dataclass(frozen=True)
class ClosedLoop:
    """Finds the plan whose network comes nearest to its latency limits and exceeds none of them by more than `MISS`.

    Args:
        latencies: latencies of the budget.
        tell: callback that takes the number of each round, counted from 1, the name of a latency, and its round.
    """

    latencies: Sequence[TimedLatency]
    tell: Callable[[int, str, LoopRound], None]

    def run(
        self, solve: Solve, costs: Sequence[Cost], before: Plan | None
    ) -> tuple[Plan, dict[str, tuple[LoopRound, ...]]]:
        """Return the plan, and all rounds in order of each latency; see `edakari.core.method.MeetBudget`.

        Raises:
            MeasurementError: every measured network lies above a limit.
            InfeasibleBudget: no allocation meets the limits according to the predictions, and no measured network does.
        """
        most = max(each.settings.rounds for each in self.latencies)
        networks = _Networks.of(self.latencies)
        factors: Factors = {each.cost.name: 1.0 for each in self.latencies}
        beyond: InfeasibleBudget | None = None
        last: Factors | None = None

        def solved(factors: Factors) -> Plan:
            scaled = {each.cost.name: each.cost.scaled(factors[each.cost.name]) for each in self.latencies}
            return solve([scaled.get(cost.name, cost) for cost in costs])

        for _ in range(most + SPARE):
            try:
                plan = solved(factors)
            except InfeasibleBudget as error:
                edge = _edge(solved, last, factors) if last and networks.best() is None else None
                if edge is None:
                    beyond = error
                    break  # no plan can come nearer than those that were measured
                plan, factors = edge
            last = factors
            index = self._tried(networks, plan, factors, before)
            if networks.distance(index) <= MISS or networks.count == most:
                break
            following = networks.next_factors(factors, index, self.latencies)
            if following is None:
                break  # the allocation no longer depends on the latencies
            factors = following
        best = networks.best()
        if best is None:
            raise beyond or _missed(networks)
        return networks.plan(best), {name: tuple(each.rounds) for name, each in networks.trials.items()}

    def _tried(self, networks: _Networks, plan: Plan, factors: Factors, before: Plan | None) -> int:
        """Return the index of the rounds of a plan's network; measure the network unless it is known."""
        whole = before.then(plan) if before else plan
        sizes = whole.sizes()
        index = networks.index(sizes)
        if index is None:
            index = networks.count
            pairs = {each.cost.name: each.measure(whole) for each in self.latencies}
            for each in self.latencies:
                name = each.cost.name
                trials = networks.trials[name]
                trials.add(plan, factors[name], factors[name] * each.cost.total(sizes), pairs[name], sizes)
                self.tell(index + 1, name, trials.rounds[index])
        networks.binding[index] = networks.bound_by(factors, index, self.latencies)
        return index


@dc.dataclass(frozen=True)
class _Networks:
    """Measured networks: their trials for each latency, in the same order.

    A latency binds at a network if its scaled prediction is as near to its limit as that of any other.

    Args:
        trials: measured networks and factors, by the name of the latency.
        binding: names of the latencies that bind, by the index of the network.
    """

    trials: Mapping[str, Trials]
    binding: dict[int, frozenset[str]] = dc.field(default_factory=dict)

    @classmethod
    def of(cls, latencies: Sequence[TimedLatency]) -> _Networks:
        """Start without any network."""
        return cls({each.cost.name: Trials(each.target, each.settings.correct) for each in latencies})

    @property
    def count(self) -> int:
        """Number of networks."""
        return len(next(iter(self.trials.values())).rounds)

    def plan(self, index: int) -> Plan:
        """Plan of a network, as it was solved."""
        return next(iter(self.trials.values())).plans[index]

    def index(self, sizes: Sizes) -> int | None:
        """Index of a known network; None if it is unknown."""
        return next(iter(self.trials.values())).index(sizes)

    def relative_error(self, index: int) -> float:
        """Largest distance of a network's latencies above their limits, as a fraction of the limit."""
        return max(each.rounds[index].relative_error for each in self.trials.values())

    def distance(self, index: int) -> float:
        """Largest distance from their limits of the latencies that bind or are too slow, as a fraction of the limit."""
        errors = {name: each.rounds[index].relative_error for name, each in self.trials.items()}
        return max(abs(error) for name, error in errors.items() if error > 0 or name in self.binding[index])

    def best(self) -> int | None:
        """Index of the network nearest to the limits that bind, among those that are fast enough."""
        allowed = [index for index in range(self.count) if self.relative_error(index) <= MISS]
        return min(allowed, key=self.distance, default=None)

    def bound_by(self, factors: Factors, index: int, latencies: Sequence[TimedLatency]) -> frozenset[str]:
        """Names of the latencies that bind at a network, according to predictions with these factors."""
        filled = {}
        for each in latencies:
            name = each.cost.name
            trials = self.trials[name]
            filled[name] = factors[name] * each.cost.total(trials.rounds[index].sizes) / trials.target.limit_ms
        return frozenset(name for name, each in filled.items() if each >= max(filled.values()) - BINDING)

    def next_factors(self, factors: Factors, index: int, latencies: Sequence[TimedLatency]) -> Factors | None:
        """Return the factors to solve with next; None if other factors make no difference.

        The factor of a latency that does not bind is corrected, too, so that its limit is kept once it binds; but that
        the network is fast enough says nothing about this factor.
        """
        found = dict(factors)
        for each in latencies:
            name = each.cost.name
            trials = self.trials[name]
            if trials.rounds[index].relative_error > 0 or name in self.binding[index]:
                found[name] = trials.next_factor(factors[name], index, each.cost) or factors[name]
            else:
                found[name] = max(trials.correct(trials.rounds, index, trials.target, each.cost), trials.slowest)
        return found if any(abs(found[name] / factors[name] - 1.0) > UNCHANGED for name in found) else None


def _edge(
    solved: Callable[[Factors], Plan], possible: Factors, impossible: Factors
) -> tuple[Plan, dict[str, float]] | None:
    """Return a plan of about the largest feasible factors, and these; None if there are no larger ones.

    The factors also scale costs that do not depend on sizes, such as those of token selectors. Factors can therefore
    make a network infeasible that meets the limits.
    """
    found = None
    while any(impossible[name] > (1.0 + NEAREST) * factor for name, factor in possible.items()):
        between = {name: math.sqrt(factor * impossible[name]) for name, factor in possible.items()}
        try:
            found = solved(between), between
            possible = between
        except InfeasibleBudget:
            impossible = between
    return found


def _missed(networks: _Networks) -> MeasurementError:
    nearest = min(range(networks.count), key=networks.relative_error)
    name, trials = max(networks.trials.items(), key=lambda item: item[1].rounds[nearest].relative_error)
    found, limit_ms = trials.rounds[nearest], trials.target.limit_ms
    pruned, lower = found.timing.pruned, limit_ms / (1.0 + found.relative_error)
    return MeasurementError(
        f"{'' if name == LATENCY else f'{name}: '}the pruned network takes {pruned.median_ms:.3g} ms "
        f"(± {pruned.spread / 2:.1g} ms), compared with {found.timing.dense.median_ms:.3g} ms of the dense one: "
        f"{found.relative_error:.1%} above the budget of {limit_ms:.3g} ms, the best of {networks.count} measured "
        f"networks. Close other programs and retry, or set the budget to about {lower:.3g} ms."
    )
