"""Settings of pruning by trial cuts."""

from __future__ import annotations

from typing import Literal

from edakari.core.protocols import Schedule
from edakari.core.settings import Count, Fraction, LearningRate, Positive, PositiveFraction, Whole, settings

__all__ = ["Soft", "TrialSettings"]

Soft = Literal["cosine", "off"]
RECOVERY_DECAY = 1e-4
"""Weight decay between cuts."""


@settings
class TrialSettings:
    """Settings of the trial cuts, and the fraction that one cut removes.

    Args:
        images: largest number of images on which trials are evaluated; None takes as many as the criterion looks at.
        tolerance: redundancy score below which a group is cut (tau in the paper).
        accuracy_weight: weight of the accuracy drop in the redundancy score (beta in the paper); the rest weighs the
            change of the class distribution.
        residual_weight: factor of the accuracy drop in residual streams.
        soft: "cosine" compares class distributions; "off" does not, as the authors' code in effect does not.
        residual_step: fraction of a residual stream's width that a cut removes at first, divided by its number of
            blocks.
        inner_step: fraction of the width that a cut removes at first, in groups that are not residual streams.
        residual_share: fraction of the saving that residual streams make before the other groups begin.
        joint: also try all groups of a round together, and drop half of them if that loses too much.
        stalled: what happens if no group can lose even one filter: "relax" doubles the tolerance, "stop" ends with an
            error.
        recalibrate: recompute the batch norm statistics of every trial on the trial images, without labels; the paper
            leaves those of the network before the cut.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: learning rate of the training between cuts, which is constant.
    """

    images: Count | None = None
    tolerance: Positive = 0.1
    accuracy_weight: Fraction = 0.8
    residual_weight: Fraction = 0.1
    # differs: the authors' code takes the cosine of single numbers, which is always 1
    soft: Soft = "cosine"
    residual_step: PositiveFraction = 0.5
    inner_step: PositiveFraction = 0.5
    residual_share: Fraction = 0.4
    joint: bool = False
    stalled: Literal["relax", "stop"] = "relax"
    recalibrate: bool = False
    recovery_epochs: Whole = 1
    recovery_lr: LearningRate = 0.001

    @property
    def needs_training(self) -> bool:
        """Whether there is training between cuts."""
        return self.recovery_epochs > 0

    @property
    def recovery(self) -> Schedule:
        """Schedule of the training between cuts: a constant learning rate, as in the authors' code."""
        # differs: Nesterov's momentum, and no weight decay of norms and biases, as in all trainings here
        return Schedule(
            epochs=self.recovery_epochs, lr=self.recovery_lr, weight_decay=RECOVERY_DECAY, warmup=0.0, final_lr=1.0
        )
