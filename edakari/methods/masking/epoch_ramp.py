"""The schedule of SMCP: warm-up, a budget that tightens along a curve, and frozen masks."""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Literal

__all__ = ["ALMOST", "Curve", "EpochRamp", "removed_fraction"]

Curve = Literal["exp", "exp2", "linear"]
STEEPNESS = 0.05
"""Steepness of the curve "exp", per epoch."""
ALMOST = 1e-9
"""In epochs; 1 - 0.9 is a little below 0.1, which must not move a phase by a step."""


@dc.dataclass(frozen=True)
class EpochRamp:
    """A mask schedule with warm-up, ramp and freeze.

    The budget is constant within an epoch, as in the authors' code. If the warm-up or the ramp is not a whole number of
    epochs, the budget tightens from step to step instead: from nothing at the end of the warm-up.

    Args:
        epochs: number of epochs of the training.
        warmup: number of epochs before masks are chosen.
        ramp: number of epochs after the warm-up until the budget reaches its final value.
        freeze: number of epochs at the end in which the masks do not change.
        interval: number of optimizer steps between two choices of masks.
        curve: shape of the ramp; see `removed_fraction`.
        per_epoch: number of optimizer steps per epoch, for phases that begin within an epoch.
    """

    epochs: int
    warmup: float
    ramp: float
    freeze: float
    interval: int
    curve: Curve = "exp"
    per_epoch: int = 1

    def due(self, step: int, epoch: int) -> bool:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`."""
        before = self._epochs_until(step - 1, epoch)
        return self.warmup - ALMOST <= before < self.epochs - self.freeze - ALMOST and step % self.interval == 0

    def over(self, step: int, epoch: int) -> bool:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`."""
        return self._epochs_until(step, epoch) >= self.epochs - self.freeze - ALMOST

    def limit(self, dense: float, final: float, step: int, epoch: int) -> float:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`."""
        done = self._epochs_until(step, epoch) - self.warmup
        if final >= dense or done >= self.ramp - ALMOST:
            return final
        if done < 0:
            return dense
        whole = float(self.warmup).is_integer() and float(self.ramp).is_integer()
        index, end = (math.floor(done) + 1, self.ramp + 1) if whole else (done, self.ramp)
        return dense * (1 - removed_fraction(self.curve, 1 - final / dense, index, end))

    def _epochs_until(self, step: int, epoch: int) -> float:
        """Number of epochs before a step, which counts from 0."""
        return epoch + step % self.per_epoch / self.per_epoch


def removed_fraction(curve: Curve, final: float, index: float, end: float) -> float:
    """Fraction of the cost that is removed at a position of the ramp.

    Args:
        curve: "exp" is steep at first, "exp2" removes the same fraction of the remaining cost in every epoch, "linear"
            removes the same cost in every epoch.
        final: fraction that is removed at the end of the ramp.
        index: position in epochs; 0 is before the ramp, `end` is its end.
        end: length of the ramp in epochs.
    """
    index = min(max(index, 0), end)
    if curve == "exp":
        return final * (1 - math.exp(-STEEPNESS * index)) / (1 - math.exp(-STEEPNESS * end))
    if curve == "exp2":
        return 1.0 - float((1 - final) ** (index / end))
    return final * index / end
