"""Incremental evaluation of a cost, for solvers that change one group at a time."""

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
    """A cost at current sizes, and at other sizes of one group."""

    @property
    def total(self) -> float:
        """Return the cost at the current sizes; equals `Cost.total`."""

    def totals(self, group: Group, choices: Ints) -> Floats:
        """Return the totals with one group at each size in `choices`, the others unchanged, float64 [choices]."""

    def move(self, name: str, size: int) -> None:
        """Change the size of a group."""


@runtime_checkable
class IncrementallyCosted(Protocol):
    """A cost with a fast incremental evaluation that gives the same values."""

    def incremental(self, sizes: Sizes) -> IncrementalCost:
        """Start an incremental evaluation at these sizes."""


def incremental(cost: Cost, sizes: Sizes) -> IncrementalCost:
    """Evaluate a cost incrementally, by its own implementation if it has one.

    Args:
        cost: the cost.
        sizes: initial sizes; they are copied.
    """
    return cost.incremental(sizes) if isinstance(cost, IncrementallyCosted) else _Asking(cost, sizes)


class _Asking:
    """Incremental evaluation of a cost without its own implementation."""

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
