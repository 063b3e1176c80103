"""HALP, the predecessor of SMCP: masked channels stay masked, and the budget tightens early in the training."""

from __future__ import annotations

import dataclasses as dc
from typing import Any, ClassVar

import torch

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepChannels
from edakari.core.protocols import Precision, Schedule
from edakari.core.settings import BelowOne, Count, Fraction, LearningRate, NonNegative, Whole, settings
from edakari.methods.masking.consumers import names_in
from edakari.methods.masking.mask_updates import MaskUpdateHook, train_and_cut
from edakari.methods.masking.masks import Masks, maskable

__all__ = ["HardMaskedPruning", "StepRamp", "norm_taylor"]


@register("halp")
@settings
class HardMaskedPruning:
    """Permanently mask the channels that matter least by their batch norms, early in a training, then cut.

    Args:
        epochs: number of epochs of the training; the masks are chosen at its start, and the rest recovers.
        milestones: number of times at which masks are chosen; 1 is one-shot.
        milestone_interval: number of optimizer steps between two choices of masks.
        milestone_start: number of optimizer steps before the first choice of masks.
        lr: peak learning rate of the training with masks.
        momentum: momentum of SGD in the training with masks.
        weight_decay: weight decay of all weights in the training with masks.
        lr_warmup: fraction of the steps in which the learning rate rises.
        precision: precision of the training: "auto", "fp32", "bf16" or "fp16".
    """

    paper: ClassVar[str] = "Shen et al., Structural Pruning via Latency-Saliency Knapsack, NeurIPS 2022"
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels})
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    epochs: Count = 90
    milestones: Count = 30
    milestone_interval: Count = 40
    milestone_start: Whole = 0
    # differs: 1.024 at batch size 1024; a recipe's own batch size is 128
    lr: LearningRate = 0.128
    momentum: BelowOne = 0.875
    weight_decay: NonNegative = 3.0517578125e-5
    lr_warmup: Fraction = 0.0889
    precision: Precision = "fp32"

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        # differs: an exact knapsack over true costs replaces the paper's dynamic programme, which takes channels in the
        # order of their scores and prices each one by a table with all other layers unchanged
        hook = MaskUpdateHook(
            Masks(job.model, job.graph, maskable(job.graph, job.groups), "permanent"),
            job,
            StepRamp(self.milestones, self.milestone_interval, self.milestone_start),
            norm_taylor,
        )
        schedule = Schedule(
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup=self.lr_warmup,
            precision=self.precision,
            optimizer_options={"nesterov": False},
        )
        return train_and_cut("halp", job, hook, schedule)


@dc.dataclass(frozen=True)
class StepRamp:
    """A budget that tightens at evenly spaced milestones, by the same factor at each.

    Args:
        count: number of milestones.
        interval: number of optimizer steps between two milestones.
        start: number of optimizer steps before the first interval.
    """

    count: int
    interval: int
    start: int = 0

    def due(self, step: int, epoch: int) -> bool:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`."""
        return 0 < step - self.start <= self.count * self.interval and (step - self.start) % self.interval == 0

    def over(self, step: int, epoch: int) -> bool:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`."""
        return step >= self.start + self.count * self.interval

    def limit(self, dense: float, final: float, step: int, epoch: int) -> float:
        """See `edakari.methods.masking.mask_updates.MaskSchedule`; masks change after `step`, which counts from 0."""
        if final >= dense:
            return final
        index = min((step + 1 - self.start) // self.interval, self.count)
        return dense * float((final / dense) ** (index / self.count))


def norm_taylor(masks: Masks) -> torch.Tensor | None:
    """First-order change of the loss if the batch norms behind a channel's producers were zero at that channel.

    Sums scale times gradient plus shift times gradient over all producers of the channel. If a producer of the group
    has no batch norm, rows of the weights take the place of scale and shift. Shen et al., NeurIPS 2022.

    Args:
        masks: masks of a network whose gradients have been computed.

    Returns:
        float [channels] on the device of the weights; None if there are no gradients.
    """
    layouts = [masks.graph.layouts[write.weight][write.dim] for write in masks.producers]
    bare = {
        name
        for write, layout in zip(masks.producers, layouts, strict=True)
        if not write.norm
        for name in names_in(layout)
    }
    row: torch.Tensor | None = None
    for write, layout in zip(masks.producers, layouts, strict=True):
        weight = masks.model.get_parameter(write.weight)
        row = torch.zeros(masks.size + 1, device=weight.device) if row is None else row
        for name in (write.weight,) if bare.intersection(names_in(layout)) else write.norm:
            parameter = masks.model.get_parameter(name)
            if parameter.grad is None:
                return None
            product = (parameter.detach() * parameter.grad).movedim(write.dim if parameter.dim() > 1 else 0, 0)
            masks.on_channels(row, layout, -(product.flatten(1).sum(1) if product.dim() > 1 else product))
    return None if row is None else row[:-1]
