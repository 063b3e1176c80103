"""Prices on the terms of a budget, which rise while a term is overrun and fall while it is not."""

from __future__ import annotations

import dataclasses as dc

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Prices"]

Array = npt.NDArray[np.float64]

WIDEST = 2.0
"""Largest step, as an exponent of two."""
LEAST = 1e-9
"""Smallest price, as a fraction of the initial one."""


@dc.dataclass(frozen=True, slots=True)
class Prices:
    """Prices of the terms of a budget, and their next steps.

    Each price has its own step, an exponent of two. The step halves when the price changes direction, and otherwise
    grows slightly (resilient propagation, Riedmiller & Braun 1993). With one term this is a bisection. With several it
    needs no gradients, which a sum of best choices does not have.

    Args:
        now: value per unit of each cost, float64 [terms].
        step: exponent of two by which each price is multiplied or divided next, float64 [terms].
        floor: smallest price of each term, float64 [terms].
        over: which terms were overrun at the previous prices, bool [terms]; None at the start.
    """

    now: Array
    step: Array
    floor: Array
    over: npt.NDArray[np.bool_] | None = None

    @classmethod
    def start(cls, value: float, costs: Array) -> Prices:
        """Return initial prices, at which the largest rise of values equals the price of the largest rise of costs.

        Args:
            value: largest possible rise of the sum of values.
            costs: largest possible rise of each cost, float64 [terms].
        """
        now = np.divide(value / len(costs), costs, out=np.zeros(len(costs)), where=costs > 0)
        return cls(now, np.full(len(costs), WIDEST), LEAST * now)

    def after(self, over: npt.NDArray[np.bool_]) -> Prices:
        """Return the next prices.

        Args:
            over: which terms are overrun at the current prices, bool [terms].
        """
        step = self.step
        if self.over is not None:
            step = np.where(over != self.over, step / 2, np.minimum(step * 1.1, WIDEST))
        return Prices(np.maximum(self.now * np.exp2(np.where(over, step, -step)), self.floor), step, self.floor, over)
