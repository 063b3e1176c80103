"""Prices on the terms of a budget, raised where a term is overrun and lowered where it is not."""

from __future__ import annotations

import dataclasses as dc

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Prices"]

Array = npt.NDArray[np.float64]

WIDEST = 2.0
LEAST = 1e-9


@dc.dataclass(frozen=True, slots=True)
class Prices:
    """Value per unit of each cost, float64 [terms], and by how much each moves next.

    Each price has a step of its own, in powers of two, which halves when the price turns around and else grows a
    little (Riedmiller & Braun 1993, resilient propagation). With one term that is a bisection; with several it does
    without slopes, which a sum of best choices does not have.

    Args:
        now: the prices.
        step: exponents of two that they are multiplied or divided by next.
        floor: prices below this are those of a term that does not matter.
        over: which terms were overrun at the last prices.
    """

    now: Array
    step: Array
    floor: Array
    over: npt.NDArray[np.bool_] | None = None

    @classmethod
    def start(cls, value: float, costs: Array) -> Prices:
        """Prices at which all there is to gain costs about as much as it is worth.

        Args:
            value: by how much values can rise.
            costs: by how much each cost can rise, float64 [terms].
        """
        now = np.divide(value / len(costs), costs, out=np.zeros(len(costs)), where=costs > 0)
        return cls(now, np.full(len(costs), WIDEST), LEAST * now)

    def after(self, over: npt.NDArray[np.bool_]) -> Prices:
        """The next prices, knowing which terms are overrun at these."""
        step = self.step
        if self.over is not None:
            step = np.where(over != self.over, step / 2, np.minimum(step * 1.1, WIDEST))
        return Prices(np.maximum(self.now * np.exp2(np.where(over, step, -step)), self.floor), step, self.floor, over)
