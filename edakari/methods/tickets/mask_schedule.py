"""When masks of single weights are chosen, how many weights they mask, and what is recorded of each choice."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Mapping
from typing import Literal

import torch

from edakari.core.settings import BelowOne, Count, PositiveFraction, settings
from edakari.methods.tickets.masking import sparsity
from edakari.methods.tickets.scores import ScoreName
from edakari.methods.tickets.selecting import Scope

__all__ = ["MaskEvent", "MaskSettings", "ProgressiveMaskSettings", "Reactivation", "sparsity_at"]

Reactivation = Literal["on_search", "persist", "after_prune"]
"""When masks are lifted so that masked weights train again: after a search that removed units, never between two
choices of masks, or right after each choice, once the epoch's network was evaluated and saved."""


@settings
class MaskSettings:
    """When and how masks of single weights are chosen, without the fraction of the weights that they mask in the end.

    Args:
        interval: number of epochs between two choices of masks.
        step: fraction of the weights by which the masks grow at each choice.
        scope: "global" compares the scores of all layers; "per_layer" masks the same fraction of each layer.
        score: score of a weight: "magnitude", or "random", "snip", "grasp" or "synflow" as baselines.
        one_shot: mask the final fraction at the first choice.
        reactivation: when masks are lifted: "on_search" after a search that removed units, "persist" never between two
            choices, "after_prune" right after each choice.
    """

    interval: Count = 25
    step: PositiveFraction = 0.1
    scope: Scope = "global"
    score: ScoreName = "magnitude"
    one_shot: bool = False
    reactivation: Reactivation = "on_search"

    def to(self, target: float) -> ProgressiveMaskSettings:
        """Return the same settings with the fraction that is masked in the end."""
        return ProgressiveMaskSettings(
            target=target, **{each.name: getattr(self, each.name) for each in dc.fields(self)}
        )


@settings
class ProgressiveMaskSettings(MaskSettings):
    """When and how `ProgressiveMask` chooses the masked weights.

    Args:
        target: fraction of the weights that are masked in the end.
    """

    target: BelowOne = 0.9

    def fraction_after(self, epochs: int) -> float:
        """Return the fraction of masked weights after a number of epochs."""
        return sparsity_at(epochs // self.interval, self.step, self.target, one_shot=self.one_shot)

    @property
    def choices(self) -> int:
        """Number of choices until the target is reached."""
        count = 1 if self.one_shot else max(1, math.ceil(round(self.target / self.step, 9)))
        return count if sparsity_at(count, self.step, self.target, one_shot=self.one_shot) >= self.target else count + 1

    def shortfall(self, epochs: int) -> str:
        """Say why a training is too short for the target, and what would suffice; an empty text if it is not.

        Args:
            epochs: number of epochs of the training.
        """
        reached = self.fraction_after(epochs)
        if reached >= self.target:
            return ""
        cures = [f"raise epochs to {self.interval * self.choices}"]
        if epochs >= self.choices:
            cures.append(f"lower interval to {epochs // self.choices}")
        if epochs >= self.interval:
            step = math.ceil(self.target / (epochs // self.interval) * 1e4) / 1e4
            cures.append(f"raise step to {step:g}")
        if len(cures) == 1:
            cures.append(f"set interval to 1 and step to {math.ceil(self.target / epochs * 1e4) / 1e4:g}")
        return (
            f"{epochs} epochs with masks every {self.interval} and steps of {self.step:g} reach a sparsity of "
            f"{100 * reached:.6g}%, but the budget asks for {100 * self.target:.6g}%; {', or '.join(cures)}"
        )


def sparsity_at(event: int, step: float, target: float, *, one_shot: bool = False) -> float:
    """Return the fraction of weights that the n-th choice masks: n steps, at most the target.

    Args:
        event: number of choices so far, with this one; 0 is before the first.
        step: fraction that each choice adds.
        target: fraction in the end.
        one_shot: the first choice masks the target.
    """
    if event == 0:
        return 0.0
    # rounded, so that three steps of 0.1 are 0.3
    return target if one_shot else min(round(event * step, 12), target)


@dc.dataclass(frozen=True)
class MaskEvent:
    """One choice of masks.

    Args:
        epoch: number of epochs after which masks were chosen.
        asked: fraction of the weights that was to be masked.
        sparsity: fraction of the maskable weights that is masked.
        weights: number of maskable weights then.
        masked: number of weights that are masked now, and were not after the choice before.
        returned: number of weights that are not masked now, and were after the choice before.
        layers: fraction of masked weights by parameter.
    """

    epoch: int
    asked: float
    sparsity: float
    weights: int
    masked: int
    returned: int
    layers: Mapping[str, float]

    @classmethod
    def of(
        cls, epoch: int, asked: float, now: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor]
    ) -> MaskEvent:
        """Record a choice.

        Args:
            epoch: number of epochs so far.
            asked: fraction of the weights that was to be masked.
            now: masks of all maskable parameters, on the CPU.
            before: masks of the choice before; parameters without one were not masked.
        """
        pairs = [(mask, before[name].cpu() if name in before else torch.ones_like(mask)) for name, mask in now.items()]
        return cls(
            epoch=epoch,
            asked=asked,
            sparsity=sparsity(now, now),
            weights=sum(mask.numel() for mask in now.values()),
            masked=sum(int((was & ~mask).sum()) for mask, was in pairs),
            returned=sum(int((mask & ~was).sum()) for mask, was in pairs),
            layers={name: 1 - float(mask.double().mean()) for name, mask in now.items()},
        )
