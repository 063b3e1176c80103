"""Closing the loop: a network is measured whole, and where it misses its latency the allocation is solved again.

The cost that the allocation is solved with is multiplied by one factor. It starts at 1; after each measurement it is
what makes the cost right for the network just measured. As sizes go in steps, and machines are noisy, a factor can lead
back to a network that is known; then the next one lies half way between one that gave too slow a network and one that
gave too quick a network.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Sequence
from typing import Any

from edakari.core.method import Solve
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.core.space import Sizes
from edakari.cost.latency import LatencyCost
from edakari.cost.measure import Timing
from edakari.cost.tokens import TokenCost
from edakari.errors import InfeasibleBudget, MeasurementError

__all__ = ["MISS", "Aim", "Pair", "Round", "plain", "settled"]

NEAR = 0.01
"""Distance from the limit, as a share of it, from which on the allocation is solved again."""
MISS = 0.02
"""How far above the limit, as a share of it, a network may lie."""
ROUNDS = 5
"""Most networks that are measured."""
SOLUTIONS = 12
"""Most times that the allocation is solved."""


@dc.dataclass(frozen=True, slots=True)
class Pair:
    """The dense and the pruned network, timed in turns."""

    dense: Timing
    pruned: Timing


@dc.dataclass(frozen=True, slots=True)
class Aim:
    """The latency to be met.

    Args:
        limit_ms: what the budget allows.
        dense_ms: of the dense network, as it was measured before anything was pruned.
    """

    limit_ms: float
    dense_ms: float

    def off(self, pair: Pair) -> float:
        """How far a network lies above the limit, as a share of it.

        It is compared, turn by turn, with the dense one that was measured in turns with it, so that a machine that has
        become slower or quicker since the dense network was measured does not count.
        """
        return pair.pruned.ratio * self.dense_ms / self.limit_ms - 1.0


@dc.dataclass(frozen=True, slots=True)
class Round:
    """One network that was measured.

    Args:
        factor: of the cost that its allocation was solved with.
        predicted_ms: its latency by that cost.
        timing: of it and of the dense network.
        off: how far it lies above the limit, as a share of it.
        sizes: of the groups that are cut.
    """

    factor: float
    predicted_ms: float
    timing: Pair
    off: float
    sizes: Sizes


def settled(
    solve: Solve,
    costs: Sequence[Cost],
    before: Plan | None,
    aim: Aim,
    measure: Callable[[Plan], Pair],
    tell: Callable[[int, Round], None],
) -> tuple[Plan, tuple[Round, ...]]:
    """The plan whose network comes nearest to the latency, and not more than `MISS` above it.

    Args:
        solve: see `edakari.core.method.Settle`.
        costs: one of them is a `LatencyCost` or the `TokenCost` of a latency.
        before: see `edakari.core.method.Settle`.
        aim: the latency.
        measure: times the network of a plan for the dense network, beside it.
        tell: told of each round, counted from 1.

    Returns:
        What `solve` gave, and all rounds in order.

    Raises:
        MeasurementError: every network lies above the limit.
        InfeasibleBudget: no allocation meets the limit, by the predictions, and no network that was measured does.
    """
    latency = next(cost for cost in costs if isinstance(cost, LatencyCost | TokenCost))
    rounds: list[Round] = []
    plans: list[Plan] = []
    slow, quick, factor = 0.0, math.inf, 1.0
    for _ in range(SOLUTIONS):
        try:
            plan = solve([latency.scaled(factor) if cost is latency else cost for cost in costs])
        except InfeasibleBudget:
            if any(each.off <= MISS for each in rounds):
                break  # nearer than what there is cannot be had
            raise
        whole = before.then(plan) if before else plan
        found = next((each for each in rounds if each.sizes == whole.sizes()), None)
        known = found is not None
        if found is None:
            timing = measure(whole)
            predicted = factor * latency.total(whole.sizes())
            found = Round(factor, predicted, timing, aim.off(timing), whole.sizes())
            rounds.append(found)
            plans.append(plan)
            tell(len(rounds), found)
        if abs(found.off) <= NEAR or len(rounds) == ROUNDS:
            break
        slow, quick = (max(slow, factor), quick) if found.off > 0 else (slow, min(quick, factor))
        right = aim.limit_ms * (1.0 + found.off) / latency.total(found.sizes)
        bracketed = 0.0 < slow < quick < math.inf
        if known and not bracketed:
            break  # what is cut does not depend on the latency any more
        factor = math.sqrt(slow * quick) if bracketed and (known or not slow < right < quick) else right
    allowed = [place for place, each in enumerate(rounds) if each.off <= MISS]
    if not allowed:
        raise _missed(rounds, aim)
    return plans[min(allowed, key=lambda place: abs(rounds[place].off))], tuple(rounds)


def plain(found: Round) -> dict[str, Any]:
    """A round as JSON holds it."""
    return {**dc.asdict(found), "sizes": dict(found.sizes)}


def _missed(rounds: Sequence[Round], aim: Aim) -> MeasurementError:
    nearest = min(rounds, key=lambda each: each.off)
    pruned = nearest.timing.pruned
    lower = aim.limit_ms / (1.0 + nearest.off)
    return MeasurementError(
        f"the pruned network takes {pruned.median_ms:.3g} ms (± {pruned.spread / 2:.1g} ms) beside "
        f"{nearest.timing.dense.median_ms:.3g} ms dense, {nearest.off:.1%} "
        f"above the budget of {aim.limit_ms:.3g} ms, the best of {len(rounds)} that were measured. Stop what else runs "
        f"on this machine and run again, or ask for some {lower:.3g} ms instead."
    )
