"""SMCP: soft masks that a knapsack updates repeatedly while the network trains.

Humble et al., ECCV 2022. The method in five steps: (1) each channel group gets a mask on the weights that consume it,
so that producers still compute masked channels and consumers still get gradients; (2) every few steps, all channels,
masked or not, are scored by the first-order change of the loss; (3) a knapsack over true costs chooses how many
channels each group keeps, within a budget that tightens along a curve, and masked channels may return; (4) batch norms
behind masked layers are scaled by the fraction of unmasked inputs, and masked weights decay; (5) the masks are frozen,
and in the end the masked channels are cut.
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar, Literal

import torch

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import DropBranch, KeepChannels
from edakari.core.protocols import Precision, Schedule
from edakari.core.settings import BelowOne, Count, Fraction, LearningRate, NonNegative, Positive, settings
from edakari.criteria.reduce import Normalize
from edakari.errors import EdakariError
from edakari.methods.masking.epoch_ramp import ALMOST, Curve, EpochRamp
from edakari.methods.masking.mask_updates import MaskUpdateHook, train_and_cut
from edakari.methods.masking.masks import Masks, Mode, maskable
from edakari.methods.masking.prices import one_sided
from edakari.methods.masking.step_scores import Average, Regrowth, ScoreAveraging
from edakari.train.epochs import steps_per_epoch

__all__ = ["SoftMaskedPruning", "derived_masked_decay", "input_taylor"]

PAPER_DECAY, PAPER_LR, PAPER_MOMENTUM, PAPER_STEPS = 2e-4, 0.256, 0.875, 55 * 5005
"""Masked decay of the authors' schedule on ImageNet, and the steps in which it chooses masks: 55 epochs of batches of
256 images."""
FADES = 1.0
"""Largest exponent by which masked weights fade from one choice to the next, if the decay is derived: to 1/e."""


@register("smcp")
@settings
class SoftMaskedPruning:
    """Train with soft masks, which a knapsack updates under a tightening budget, then cut.

    The authors never prune the stem of a ResNet; `groups: {exclude: [conv1]}` does not either.

    Args:
        epochs: number of epochs of the training with masks, all phases together.
        warmup_epochs: number of epochs without masks at the start; it and the next two need not be integers.
        ramp_epochs: number of epochs after the warm-up in which the budget tightens; it does not change afterwards. It
            tightens from epoch to epoch; if `warmup_epochs` or `ramp_epochs` is not an integer, from step to step.
        freeze_epochs: number of epochs at the end in which the masks do not change; the network is cut at their
            beginning, or at the end of the epoch in which they begin.
        interval: number of optimizer steps between two choices of masks; the authors use 80 at batch size 256.
        curve: shape of the curve along which the removed fraction of the cost grows.
        masks: gradient of masked weights: "soft" passes the gradient as if there were no mask, "hard" passes none,
            "permanent" passes none, and masked channels never return.
        average: how the scores of single steps are averaged; see `edakari.methods.masking.mask_updates.ScoreAveraging`.
        regrowth: scores of masked channels: "absolute" values, or "signed" ones, so that only channels that would lower
            the loss return.
        keep_bonus: factor of the scores of channels that are not masked.
        normalize: what the scores are divided by before the knapsack: the "mean", "max" or "sum" of their group's
            scores; "none" compares the changes of the loss as they are.
        sharing: power of the number of layers that read a group by which its scores are divided: 0 leaves the sum over
            these layers, 1 makes it their mean.
        scarcity: power by which the value of a channel rises the fewer of its group are kept; see
            `edakari.solve.scarce`. 0 adds scores up, as the authors do.
        median_of: number of the last choices of masks over whose scores a channel's score is the median; 1 takes the
            steps since the last choice alone, as the authors do.
        masked_decay: weight decay of masked weights, in addition to `weight_decay`. None derives it from the schedule:
            masked weights fade as much over all choices as in the authors' schedule, where it is 0.0002, but at most to
            1/e from one choice to the next; see `derived_masked_decay`.
        norm_scale: "kept" multiplies batch norms behind masked layers by the fraction of unmasked inputs; "none" does
            not.
        pricing: "coupled" takes the true costs; "one_sided" takes the cost of each group with all other groups
            unchanged.
        consumer_share: fraction of a layer's one-sided price that its input groups pay; its output group pays the rest.
        remove_branches: allow whole residual branches to be dropped.
        lr: peak learning rate of the training with masks.
        momentum: momentum of SGD in the training with masks.
        weight_decay: weight decay of all weights in the training with masks.
        lr_warmup: fraction of the steps in which the learning rate rises.
        precision: precision of the training: "auto", "fp32", "bf16" or "fp16".
    """

    paper: ClassVar[str] = "Humble et al., Soft Masking for Cost-Constrained Channel Pruning, ECCV 2022"
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels, DropBranch})
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    epochs: Count = 90
    warmup_epochs: NonNegative = 10
    ramp_epochs: NonNegative = 55
    freeze_epochs: NonNegative = 25
    interval: Count = 80
    curve: Curve = "exp"
    masks: Mode = "soft"
    # differs: the authors' code scores by a single batch before each choice, which is noisy with small batches
    average: Average = "average"
    regrowth: Regrowth = "absolute"
    keep_bonus: Positive = 1.0
    normalize: Normalize = "none"
    sharing: Fraction = 0.0
    # differs: the authors add scores up. The loss rises faster the fewer channels are left; sums take groups to their
    # least that cost much latency (docs/results/soft-masks.md: 5 points at 35 % of the latency)
    scarcity: NonNegative = 2.0
    # differs: the authors take the last interval. If masks are chosen few times, each choice masks many channels; right
    # after it, their group's scores are many times higher than before, and they return (docs/explanation/soft-masks.md)
    median_of: Count = 5
    # differs: 0.0002 in the authors' code whatever the schedule; in short ones masked channels then return in hundreds
    masked_decay: NonNegative | None = None
    # differs: off by default in the authors' code, but part of the published method. In trainings of an epoch or two it
    # costs accuracy (docs/results/soft-masks.md), since scales cannot grow back in the time
    norm_scale: Literal["kept", "none"] = "kept"
    # differs: the authors use one-sided prices, which miss the budget by up to 10 %, since all groups change at once
    pricing: Literal["coupled", "one_sided"] = "coupled"
    consumer_share: Fraction = 1.0
    remove_branches: bool = False
    # differs: the authors use 0.256 at batch size 256; our default batch size is 128
    lr: LearningRate = 0.128
    momentum: BelowOne = 0.875
    weight_decay: NonNegative = 3.0517578125e-5
    lr_warmup: Fraction = 0.0889
    precision: Precision = "fp32"

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        self._check()
        branches = [branch.group for branch in job.graph.branches] if self.remove_branches else []
        groups = maskable(job.graph, (*job.groups, *branches))
        schedule = Schedule(
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup=self.lr_warmup,
            precision=self.precision,
            optimizer_options={"nesterov": False},
        )
        per_epoch = steps_per_epoch(job.task.batches("train"), schedule)
        decay = self._masked_decay(per_epoch)
        kept = math.exp(-self.lr / (1 - self.momentum) * self.interval * decay)
        job.log("decay of masked weights", {"masked_decay": decay, "kept_per_choice": kept})
        hook = MaskUpdateHook(
            Masks(job.model, job.graph, groups, self.masks, scale_norms=self.norm_scale == "kept"),
            job,
            self._ramp(per_epoch),
            input_taylor,
            ScoreAveraging(
                average=self.average,
                regrowth=self.regrowth,
                keep_bonus=self.keep_bonus,
                masked_decay=decay,
                normalize=self.normalize,
                sharing=self.sharing,
                scarcity=self.scarcity,
                median_of=self.median_of,
            ),
            None if self.pricing == "coupled" else functools.partial(one_sided, job.graph, self.consumer_share),
        )
        return train_and_cut("smcp", job, hook, schedule)

    def _ramp(self, per_epoch: int) -> EpochRamp:
        phases = (self.warmup_epochs, self.ramp_epochs, self.freeze_epochs)
        return EpochRamp(self.epochs, *phases, self.interval, self.curve, per_epoch)

    def _masked_decay(self, per_epoch: int) -> float:
        if self.masked_decay is not None:
            return self.masked_decay
        steps = (self.epochs - self.warmup_epochs - self.freeze_epochs) * per_epoch
        return derived_masked_decay(self.lr, self.momentum, steps, self.interval)

    def _check(self) -> None:
        phases = (self.warmup_epochs, self.ramp_epochs, self.freeze_epochs)
        if sum(phases) > self.epochs + ALMOST or self.warmup_epochs + self.freeze_epochs >= self.epochs:
            raise EdakariError(
                f"method 'smcp': warmup_epochs={phases[0]}, ramp_epochs={phases[1]} and freeze_epochs={phases[2]} must "
                f"fit into epochs={self.epochs}, with some epochs left between warm-up and freeze"
            )
        if self.remove_branches and self.normalize != "none":
            raise EdakariError(
                f"method 'smcp': normalize={self.normalize!r} compares channels within their group, and a branch is "
                "alone in its own; set normalize: none or remove_branches: false"
            )


def derived_masked_decay(lr: float, momentum: float, steps: float, interval: int) -> float:
    """Weight decay of masked weights that suits a schedule.

    From one choice of masks to the next, a masked weight keeps about `exp(-lr / (1 - momentum) * interval * decay)`.
    Over all choices together it fades here as in the authors' schedule. A schedule with few choices would need so
    strong a decay that nothing could return; a weight therefore keeps at least 1/e from choice to choice.

    Args:
        lr: peak learning rate.
        momentum: momentum of SGD.
        steps: number of optimizer steps in which masks are chosen.
        interval: number of optimizer steps between two choices of masks.

    Returns:
        The decay; 0.0002 for the authors' schedule on ImageNet.
    """
    rate, paper_rate = lr / (1 - momentum), PAPER_LR / (1 - PAPER_MOMENTUM)
    return min(PAPER_DECAY * ((paper_rate * PAPER_STEPS) / (rate * steps)), FADES / (rate * interval))


def input_taylor(masks: Masks) -> torch.Tensor | None:
    """First-order change of the loss if the weight columns that read a channel were zero.

    Sums weight times gradient over the kernel, over the unmasked rows, and over all consumers of the channel. For a
    branch, sums it over the parameters of the branch's last module. Humble et al., ECCV 2022.

    Args:
        masks: masks of a network whose gradients have been computed.

    Returns:
        float [channels] on the device of the weights; None if no weight has a gradient.
    """
    row = torch.zeros(masks.size + 1, device=next(masks.model.parameters()).device)
    counted = False
    for read in masks.consumers:
        weight = masks.model.get_parameter(read.weight)
        if weight.grad is None:
            continue
        counted = True
        product_OI = (weight.detach() * weight.grad).movedim(read.dim, 1)
        product_OI = product_OI.flatten(2).sum(2) if weight.dim() > 2 else product_OI
        rows = masks.positions(masks.graph.layouts[read.weight][1 - read.dim], product_OI)
        change = product_OI.sum(0) if rows is None else rows @ product_OI
        masks.on_channels(row, masks.graph.layouts[read.weight][read.dim], -change)
    for branch in masks.branches:
        for parameter in masks.model.get_submodule(branch.exit).parameters():
            if parameter.grad is not None:
                row[masks.offsets[branch.name]] -= (parameter.detach() * parameter.grad).sum()
                counted = True
    return row[:-1] if counted else None
