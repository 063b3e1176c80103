"""A cost of a network after an earlier plan."""

from __future__ import annotations

import dataclasses as dc

import numpy as np
import numpy.typing as npt

from edakari.core.incremental_cost import IncrementalCost, incremental
from edakari.core.protocols import Cost
from edakari.core.space import Group, Sizes

__all__ = ["CostAfter"]


@dc.dataclass(frozen=True)
class CostAfter:
    """The cost of a network that was already cut, computed from the cost of the unpruned network; fulfils `Cost`.

    A measured cost belongs to the network that was measured. Methods that cut in several steps use this class for it.

    Args:
        cost: cost of the network before any cut.
        start: size of each group that was cut.
    """

    cost: Cost
    start: Sizes

    @property
    def name(self) -> str:
        """See `edakari.core.protocols.Cost`."""
        return self.cost.name

    @property
    def unit(self) -> str:
        """See `edakari.core.protocols.Cost`."""
        return self.cost.unit

    def total(self, sizes: Sizes) -> float:
        """See `edakari.core.protocols.Cost`."""
        return self.cost.total({**self.start, **sizes})

    def curve(self, group: Group, sizes: Sizes) -> npt.NDArray[np.float64]:
        """See `edakari.core.protocols.Cost`."""
        return self.cost.curve(group, {**self.start, **sizes})

    def incremental(self, sizes: Sizes) -> IncrementalCost:
        """See `edakari.core.incremental_cost.Walkable`."""
        return incremental(self.cost, {**self.start, **sizes})
