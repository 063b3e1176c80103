"""A cost from a formula, for hand-made test cases."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edakari.core.space import Group, Sizes

__all__ = ["ProductCost"]


@dc.dataclass(frozen=True)
class ProductCost:
    """A sum of products of group sizes, as the MACs of a network are.

    Args:
        whole: size of each group in the dense network.
        terms: constants, each with the names of the groups whose sizes it is multiplied by.
        name: name of the cost in a budget.
        unit: unit of the total.
    """

    whole: Mapping[str, int]
    terms: tuple[tuple[float, tuple[str, ...]], ...]
    name: str = "macs"
    unit: str = "MAC"

    def total(self, sizes: Sizes) -> float:
        """See `edakari.core.protocols.Cost`."""
        size = {**self.whole, **sizes}
        return float(sum(factor * math.prod(size[name] for name in names) for factor, names in self.terms))

    def curve(self, group: Group, sizes: Sizes) -> npt.NDArray[np.float64]:
        """See `edakari.core.protocols.Cost`."""
        size = {**self.whole, **sizes}
        every = np.arange(group.size + 1, dtype=np.float64)
        curve = np.zeros(group.size + 1)
        for factor, names in self.terms:
            others = math.prod(size[name] for name in names if name != group.name)
            curve += factor * others * every ** names.count(group.name)
        return curve
