"""The protocol of costs, in a module of its own because budgets use it and other protocols use budgets."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from edakari.core.space import Group, Sizes

__all__ = ["Cost"]


class Cost(Protocol):
    """Cost of a network as a function of the sizes of its groups.

    `total` is non-decreasing in every size; `total({})` is the cost of the dense network.
    """

    @property
    def name(self) -> str:
        """Name in a budget, such as "macs"."""

    @property
    def unit(self) -> str:
        """Unit of the values, such as "MAC" or "ms"."""

    def total(self, sizes: Sizes) -> float:
        """Return the cost of the network at these sizes."""

    def curve(self, group: Group, sizes: Sizes) -> npt.NDArray[np.float64]:
        """Return the totals with this group at every size, and the others as given.

        Returns:
            float64 [group.size + 1]; entry k equals `total({**sizes, group.name: k})`.
        """
