"""A cost at sizes that change group by group, as solvers ask for it: thousands of times, one change apart."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edakari.core.protocols import Cost
from edakari.core.space import Group, Sizes

__all__ = ["Floats", "IncrementalCost", "IncrementallyCosted", "Ints", "incremental"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class IncrementalCost(Protocol):
    """Where a cost stands, and what it would be with one group at other sizes."""

    @property
    def total(self) -> float:
        """The cost at the sizes as they are now; equals `Cost.total` of them."""

    def totals(self, group: Group, choices: Ints) -> Floats:
        """Totals with a group at each of the sizes in `choices`, all others as they are now, float64 [choices]."""

    def move(self, name: str, size: int) -> None:
        """Give a group another size."""


@runtime_checkable
class IncrementallyCosted(Protocol):
    """A cost that knows a quicker way than to be asked anew about all sizes; the figures are the same."""

    def incremental(self, sizes: Sizes) -> IncrementalCost:
        """Increments that starts at these sizes."""


def incremental(cost: Cost, sizes: Sizes) -> IncrementalCost:
    """A walk of a cost, by its own way if it has one.

    Args:
        cost: to be asked.
        sizes: where the walk starts; they are copied.
    """
    return cost.incremental(sizes) if isinstance(cost, IncrementallyCosted) else _Asking(cost, sizes)


class _Asking:
    """The walk of a cost that has no way of its own."""

    def __init__(self, cost: Cost, sizes: Sizes) -> None:
        self.cost = cost
        self.sizes = dict(sizes)

    @property
    def total(self) -> float:
        return self.cost.total(self.sizes)

    def totals(self, group: Group, choices: Ints) -> Floats:
        return self.cost.curve(group, self.sizes)[choices]

    def move(self, name: str, size: int) -> None:
        self.sizes[name] = size
