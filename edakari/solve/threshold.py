"""Allocation by one global threshold over the values of all channels."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.budget import Limits
from edakari.core.protocols import Values
from edakari.core.space import Group, Sizes, legal_choices
from edakari.solve.spend import largest, reachable, used_up

__all__ = ["Threshold"]


@dc.dataclass(frozen=True)
class Threshold:
    """Keep the channels whose marginal value is above one threshold, found by bisection over the network's true cost.

    The marginal values of all groups are ranked together; of equal ones, those of the earlier group come first. Sizes
    are rounded to the nearest legal ones before their cost is computed. The rest of the budget is spent where it adds
    most value.
    """

    def allocate(self, groups: Sequence[Group], values: Values, limits: Limits) -> Sizes:
        """See `edakari.core.protocols.Allocator`."""
        dense = reachable(groups, values, limits)
        if dense is not None:
            return dense
        marginal = np.concatenate([np.diff(values[group.name]) for group in groups])
        owner = np.repeat(np.arange(len(groups)), [group.size for group in groups])
        ranked = owner[np.argsort(-marginal, kind="stable")]
        nearest = [_nearest(group) for group in groups]

        def sizes_at(rank: int) -> dict[str, int]:
            counts = np.bincount(ranked[:rank], minlength=len(groups))
            return {group.name: int(table[count]) for group, table, count in zip(groups, nearest, counts, strict=True)}

        return used_up(groups, values, limits, largest(limits, sizes_at, len(ranked)))


def _nearest(group: Group) -> npt.NDArray[np.int64]:
    """Return the legal size nearest to every count, int64 [size + 1]; of two equally near ones the smaller."""
    legal = legal_choices(group)
    between = (legal[1:] + legal[:-1]) / 2
    return legal[np.searchsorted(between, np.arange(group.size + 1), side="left")]
