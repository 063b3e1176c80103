"""Curves of the learning rate over the steps of a training; a schedule names one, alone or with its settings."""

from __future__ import annotations

import abc
import math
from typing import Annotated, Any

from annotated_types import Ge

from edakari.core.registry import Registry
from edakari.core.settings import (
    BelowOne,
    Fraction,
    OpenFraction,
    Positive,
    PositiveFraction,
    settings,
)

__all__ = ["CURVES", "Constant", "Cosine", "Curve", "Exponential", "OneCycle", "Steps", "WarmedUp"]

CURVES: Registry[Any] = Registry(
    "learning-rate curve",
    "edakari.curves",
    {
        "constant": "edakari.core.curves:Constant",
        "cosine": "edakari.core.curves:Cosine",
        "exponential": "edakari.core.curves:Exponential",
        "one_cycle": "edakari.core.curves:OneCycle",
        "steps": "edakari.core.curves:Steps",
    },
    members=("rate", "momentum"),
)
"""Classes of curves by the name that a recipe gives them."""


class Curve(abc.ABC):
    """Learning rate, and perhaps momentum, as a function of the step; subclass it for a curve of your own."""

    @abc.abstractmethod
    def rate(self, lr: float, step: int, steps: int, epochs: int) -> float:
        """Compute the learning rate of a step.

        Args:
            lr: peak learning rate.
            step: index of the optimizer step, from 0.
            steps: number of steps of the complete training.
            epochs: number of its epochs.
        """

    def momentum(self, step: int, steps: int, epochs: int) -> float | None:
        """Compute the momentum of a step, which is the first of `betas` in optimizers such as Adam.

        Args:
            step: index of the optimizer step, from 0.
            steps: number of steps of the complete training.
            epochs: number of its epochs.

        Returns:
            The momentum, or None, which leaves the optimizer's own.
        """
        return None


@settings
class WarmedUp(Curve):
    """A curve that begins with a linear warm-up.

    Args:
        warmup: fraction of all steps in which the learning rate rises linearly.
        warmup_from: learning rate of the first step as a fraction of `lr`; None rises from 0, and the first step is one
            step above it.
    """

    warmup: Fraction = 0.05
    warmup_from: Fraction | None = None

    def rate(self, lr: float, step: int, steps: int, epochs: int) -> float:
        """See `Curve`."""
        warm = round(self.warmup * steps)
        if step >= warm:
            return self.after_warmup(lr, step, warm, steps, epochs)
        if self.warmup_from is None:
            return lr * (step + 1) / (warm + 1)
        return lr * (self.warmup_from + (1.0 - self.warmup_from) * step / warm)

    @abc.abstractmethod
    def after_warmup(self, lr: float, step: int, warm: int, steps: int, epochs: int) -> float:
        """Compute the learning rate of a step that does not belong to the warm-up.

        Args:
            lr: peak learning rate.
            step: index of the optimizer step, from 0.
            warm: number of steps of the warm-up.
            steps: number of steps of the complete training.
            epochs: number of its epochs.
        """


@settings
class Constant(WarmedUp):
    """The same learning rate in all steps after the warm-up."""

    def after_warmup(self, lr: float, step: int, warm: int, steps: int, epochs: int) -> float:
        """See `WarmedUp`."""
        return lr


@settings
class Cosine(WarmedUp):
    """Falls along half a cosine (Loshchilov & Hutter, 2017, without restarts).

    Args:
        final_lr: learning rate at the end, as a fraction of `lr`.
    """

    final_lr: Fraction = 0.0

    def after_warmup(self, lr: float, step: int, warm: int, steps: int, epochs: int) -> float:
        """See `WarmedUp`."""
        done = (step - warm) / max(1, steps - warm)
        low = lr * self.final_lr
        return low + (lr - low) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


@settings
class Steps(WarmedUp):
    """Falls by a factor at given positions.

    Args:
        drops: positions, as fractions of all steps, at which the learning rate is multiplied by `drop`.
        drop: factor of the learning rate at each of `drops`.
    """

    drops: tuple[OpenFraction, ...] = (0.3, 0.6, 0.8)
    drop: PositiveFraction = 0.2

    def after_warmup(self, lr: float, step: int, warm: int, steps: int, epochs: int) -> float:
        """See `WarmedUp`."""
        return lr * self.drop ** sum(step >= round(index * steps) for index in self.drops)


@settings
class Exponential(WarmedUp):
    """Falls by the same factor again and again, as a staircase that begins after the warm-up.

    Args:
        factor: factor of the learning rate at each stair.
        every: number of epochs from stair to stair; need not be an integer.
    """

    factor: PositiveFraction = 0.97
    every: Positive = 2.4

    def after_warmup(self, lr: float, step: int, warm: int, steps: int, epochs: int) -> float:
        """See `WarmedUp`."""
        stair = self.every * steps / max(1, epochs)
        # 0.1 epochs of 30 steps are 3.0000000000000004 steps, which must not delay a stair by one
        return lr * self.factor ** math.floor((step - warm) / stair + 1e-9)


@settings
class OneCycle(Curve):
    """Rises along a cosine from a fraction of `lr` to `lr`, and falls along another (Smith & Topin, 2019).

    It has the values and defaults of torch's `OneCycleLR`: the momentum falls while the learning rate rises.

    Args:
        rise: fraction of all steps in which the learning rate rises.
        div: `lr` divided by the learning rate of the first step.
        final_div: learning rate of the first step divided by that of the last one.
        momentum_range: smallest and largest momentum; None leaves the momentum of the optimizer.
    """

    rise: OpenFraction = 0.3
    div: Annotated[float, Ge(1)] = 25.0
    final_div: Annotated[float, Ge(1)] = 1e4
    momentum_range: tuple[BelowOne, BelowOne] | None = (0.85, 0.95)

    def rate(self, lr: float, step: int, steps: int, epochs: int) -> float:
        """See `Curve`."""
        first = lr / self.div
        return self._along(step, steps, (first, lr, first / self.final_div))

    def momentum(self, step: int, steps: int, epochs: int) -> float | None:
        """See `Curve`."""
        if self.momentum_range is None:
            return None
        low, high = self.momentum_range
        return self._along(step, steps, (high, low, high))

    def _along(self, step: int, steps: int, values: tuple[float, float, float]) -> float:
        """Value at a step between those of the first step, of the peak and of the last step."""
        first, peak, last = values
        top = self.rise * steps - 1.0
        if step <= top and top > 0.0:
            return _annealed(first, peak, step / top)
        return _annealed(peak, last, (step - top) / max(steps - 1.0 - top, 1.0))


def _annealed(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * min(1.0, part)))
