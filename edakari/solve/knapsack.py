"""Allocation by the multiple-choice knapsack over the legal sizes of all groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edakari.core.budget import Limits
from edakari.core.protocols import Values
from edakari.core.settings import NonNegative, settings
from edakari.core.space import Group, Sizes, legal_choices
from edakari.errors import InfeasibleBudget
from edakari.solve.choices import solve_choices
from edakari.solve.descent import descend
from edakari.solve.spend import Ledger, fill, fits, largest, loads, reachable, worth_of
from edakari.solve.threshold import Threshold
from edakari.solve.values import scarce

__all__ = ["Knapsack"]

BLEND = 64
"""Number of steps between sizes within the limits and sizes beyond them."""
REACHES = (1e9, 1.4)
"""Factors by which sizes may change in a round; the next factor follows a round with little gain."""
GAIN = 3e-4
"""Smallest relative gain of a round after which the factor stays the same."""


@settings
class Knapsack:
    """Solve multiple-choice knapsacks over legal sizes, on cost curves that are computed again in each round.

    The cost of a layer depends on two groups, so cost curves are accurate only near the sizes at which they were
    computed. The search starts from the better of two solutions: that of `Threshold`, and that of a coordinate descent
    at common prices (see `edakari.solve.descent`). Each round computes curves, solves a knapsack (see `solve_choices`),
    checks the true cost and tightens the capacities by the overrun. After a round with little gain, the range of sizes
    around the best ones shrinks. If no cost couples groups, the first round is as exact as `solve_choices`.

    Args:
        resolution: number of states that a stage of the knapsack keeps; fewer are faster and less exact.
        sweeps: number of passes over all groups in which the prices converge.
        rounds: largest number of rounds.
        tries: largest number of knapsacks in one round.
        scarcity: power by which the value of channels rises the fewer of their group are kept; see
            `edakari.solve.scarce`. 0 adds scores up.
    """

    resolution: int = 1024
    sweeps: int = 12
    rounds: int = 8
    tries: int = 3
    scarcity: NonNegative = 0.0

    def allocate(self, groups: Sequence[Group], values: Values, limits: Limits) -> Sizes:
        """See `edakari.core.protocols.Allocator`."""
        dense = reachable(groups, values, limits)
        if dense is not None:
            return dense
        values = scarce(values, self.scarcity)
        best = descend(groups, values, limits, self.sweeps)
        best = max(best, dict(Threshold().allocate(groups, values, limits)), key=lambda sizes: worth_of(values, sizes))
        reaches = list(REACHES)
        for _ in range(self.rounds):
            before, best = best, self._round(groups, values, limits, best, reaches[0])
            if worth_of(values, best) <= worth_of(values, before) * (1 + GAIN):
                reaches.pop(0)
            if not reaches:
                break
        return fill(groups, values, limits, best)

    def _round(
        self, groups: Sequence[Group], values: Values, limits: Limits, start: Mapping[str, int], reach: float
    ) -> dict[str, int]:
        """Return the best sizes within the limits from knapsacks over the curves at `start`."""
        choices, curves, ledger = [], [], Ledger(limits, start)
        for group in groups:
            legal, now = legal_choices(group), start[group.name]
            choices.append(legal[np.abs(legal - now) <= max((reach - 1) * now, group.step)])
            curve = ledger.totals(group, choices[-1])
            curves.append(curve - curve[:, [np.searchsorted(choices[-1], now)]])
        worths = [values[group.name][legal] for group, legal in zip(groups, choices, strict=True)]
        room = 1.0 - loads(limits, start)
        best = dict(start)
        for _ in range(self.tries):
            try:
                picks = solve_choices(curves, worths, room, self.resolution)
            except InfeasibleBudget:
                break
            found = {g.name: int(legal[pick]) for g, legal, pick in zip(groups, choices, picks, strict=True)}
            inside = found if fits(limits, found) else _towards(groups, limits, start, found)
            best = max(best, inside, key=lambda sizes: worth_of(values, sizes))
            if inside is found:
                break
            room = room - np.maximum(loads(limits, found) - 1.0, 0.0)
        return best


def _towards(
    groups: Sequence[Group], limits: Limits, start: Mapping[str, int], goal: Mapping[str, int]
) -> dict[str, int]:
    """Return the sizes within the limits that are nearest to the goal, between the start and the goal."""
    legal = {group.name: legal_choices(group) for group in groups}

    def sizes_at(part: int) -> dict[str, int]:
        sizes = {}
        for name, rows in legal.items():
            wanted = start[name] + (goal[name] - start[name]) * part / BLEND
            sizes[name] = int(rows[max(int(np.searchsorted(rows, wanted, side="right")) - 1, 0)])
        return sizes

    return dict(largest(limits, sizes_at, BLEND - 1))
