"""When and how strongly a search closes gates."""

from __future__ import annotations

import dataclasses as dc

from edakari.core.settings import BelowOne, Count, NonNegative, Positive, settings
from edakari.methods.tickets.gates import Weighting

__all__ = ["Duration", "GateSearchSettings", "average_decay"]


@dc.dataclass(frozen=True)
class Duration:
    """Length of a training.

    Args:
        epochs: number of epochs.
        steps_per_epoch: number of optimizer steps of an epoch.
    """

    epochs: int
    steps_per_epoch: int


@settings
class GateSearchSettings:
    """When and how strongly gates are closed; the defaults are those of the paper's ImageNet configuration.

    Args:
        rho: strength of the penalty. With a budget, it is where the search begins.
        free_epochs: number of epochs before the penalty begins.
        warmup_epochs: number of epochs after which the penalty has its full strength; it rises linearly until then.
        interval: number of epochs between two events.
        eps: gates up to this are dead.
        min_saving: multiply-accumulates that dead units must save before the network is cut; the last event, and
            the one that meets a budget, always cut.
        weighting: "cost" weights the penalty of a unit by its multiply-accumulates, "equal" does not, as in Network
            Slimming.
        decay: largest decay of the moving average of the gates. It begins with a short average, see `average_decay`.
    """

    rho: NonNegative = 1.8e-4
    free_epochs: NonNegative = 0.0
    warmup_epochs: NonNegative = 25.0
    interval: Count = 10
    eps: Positive = 1e-3
    min_saving: NonNegative = 1e6
    weighting: Weighting = "cost"
    decay: BelowOne = 0.9999875

    def strength(self, step: int, steps_per_epoch: int) -> float:
        """Return the fraction of `rho` that applies at a step, from 0 to 1.

        Args:
            step: index of the optimizer step, from 0 over all epochs.
            steps_per_epoch: number of optimizer steps of an epoch.
        """
        past = step - self.free_epochs * steps_per_epoch
        rise = (self.warmup_epochs - self.free_epochs) * steps_per_epoch
        return float(past >= 0) if rise <= 0 else min(1.0, max(0.0, past / rise))

    def idleness(self, epochs: int) -> str:
        """Say why the penalty would never act in a training, and what to do; an empty text if it would.

        Args:
            epochs: number of epochs of the training.
        """
        if not self.rho or self.free_epochs < epochs:
            return ""
        return (
            f"the penalty begins after {self.free_epochs:g} epochs, but the training has {epochs}, so no gate would be "
            f"closed; lower free_epochs, or raise epochs above {self.free_epochs:g}"
        )


def average_decay(decay: float, update: int) -> float:
    """Return the decay of a moving average at an update: short at first, at most `decay`.

    Args:
        decay: largest decay.
        update: number of the update, from 1.
    """
    return min(decay, (1 + update) / (10 + update))
