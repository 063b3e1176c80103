"""Multiple choice over the legal sizes of all groups."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence

import numpy as np

from edakari.core.budget import Limits
from edakari.core.protocols import Values
from edakari.core.space import Group, Sizes, legal_choices
from edakari.errors import InfeasibleBudget
from edakari.solve.choices import solve_choices
from edakari.solve.descent import descend
from edakari.solve.spend import Ledger, fill, fits, largest, loads, reachable, worth_of
from edakari.solve.threshold import Threshold

__all__ = ["Knapsack"]

BLEND = 64
REACHES = (1e9, 1.4)
"""By which factor sizes may change in a round; the next one when a round gains little."""
GAIN = 3e-4
"""Least relative gain of a round that is worth another one like it."""


@dc.dataclass(frozen=True)
class Knapsack:
    """The multiple-choice knapsack over legal sizes, on cost curves that are taken again after each move.

    The cost of a layer depends on two groups, so a knapsack over curves is right only near the sizes at which they
    were taken. It starts from the better of two solutions: of `Threshold`, and of a descent in which every group takes
    its best size at common prices. Each round then takes curves, solves (see `solve_choices`), checks the true cost and
    tightens the capacities by the overrun; a round that finds little shrinks the range of sizes around the best ones.
    On costs that do not couple groups the first round is exact, as far as `solve_choices` is.

    Args:
        resolution: states that a stage of the knapsack passes on; fewer are quicker and less exact.
        sweeps: passes over all groups in which the prices converge.
        rounds: most times that curves are taken afterwards.
        tries: most solutions of one round.
    """

    resolution: int = 1024
    sweeps: int = 12
    rounds: int = 8
    tries: int = 3

    def allocate(self, groups: Sequence[Group], values: Values, limits: Limits) -> Sizes:
        """See `edakari.core.protocols.Allocator`."""
        dense = reachable(groups, values, limits)
        if dense is not None:
            return dense
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
        """The best sizes within the limits that knapsacks over the curves at `start` lead to."""
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
    """Sizes within the limits between sizes that are within them and sizes that are not."""
    legal = {group.name: legal_choices(group) for group in groups}

    def sizes_at(part: int) -> dict[str, int]:
        sizes = {}
        for name, rows in legal.items():
            wanted = start[name] + (goal[name] - start[name]) * part / BLEND
            sizes[name] = int(rows[max(int(np.searchsorted(rows, wanted, side="right")) - 1, 0)])
        return sizes

    return dict(largest(limits, sizes_at, BLEND - 1))
