"""Allocation by the same fraction of every group."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence

import numpy as np

from edakari.core.budget import Limits
from edakari.core.protocols import Values
from edakari.core.space import Group, Sizes, legal_choices
from edakari.solve.spend import fill, largest, reachable, used_up

__all__ = ["Uniform"]

CELLS = 1 << 16
"""Number of steps of the fraction between 0 and 1."""


@dc.dataclass(frozen=True)
class Uniform:
    """Keep the same fraction of all groups, found by bisection over the network's true cost.

    The rest of the budget is spent where it adds most value. A branch, which cannot be kept in part, is kept whenever
    the fraction is above 0.
    """

    def allocate(self, groups: Sequence[Group], values: Values, limits: Limits) -> Sizes:
        """See `edakari.core.protocols.Allocator`."""
        dense = reachable(groups, values, limits)
        if dense is not None:
            return dense
        legal = {group.name: legal_choices(group) for group in groups}

        def sizes_at(cell: int) -> dict[str, int]:
            sizes = {}
            for group in groups:
                part = group.size * cell / CELLS
                wanted = math.ceil(part) if group.kind == "branch" else part
                rank = int(np.searchsorted(legal[group.name], wanted, side="right"))
                sizes[group.name] = int(legal[group.name][max(rank - 1, 0)])
            return sizes

        sizes = largest(limits, sizes_at, CELLS)
        # All groups of equal size change at the same cell, so some of them may still fit: grow by one legal size first.
        following = {
            name: int(rows[min(len(rows) - 1, int(np.searchsorted(rows, sizes[name])) + 1)])
            for name, rows in legal.items()
        }
        return used_up(groups, values, limits, fill(groups, values, limits, sizes, following))
