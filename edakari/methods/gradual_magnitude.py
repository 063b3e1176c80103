"""Gradual magnitude pruning: more and more single weights are masked while the network trains.

Zhu & Gupta, 2017. In three steps: (1) train; (2) every few epochs score all weights, masked ones by the values that
they keep, and mask the lowest, in equal steps up to the sparsity of the budget; (3) continue at that sparsity. The plan
masks the weights; no channel is removed. It is the pruning of SuperTickets (You et al., ECCV 2022) without its search.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from edakari.core.budget import Budget
from edakari.core.method import Job, Outcome, register, require_possible
from edakari.core.objective import task_objective
from edakari.core.plan import MaskWeights
from edakari.core.protocols import Precision, Schedule
from edakari.core.settings import BelowOne, Count, Fraction, LearningRate, NonNegative, PositiveFraction, settings
from edakari.errors import BudgetError
from edakari.methods.tickets.mask_schedule import ProgressiveMaskSettings
from edakari.methods.tickets.progressive_mask import ProgressiveMask
from edakari.methods.tickets.recording import Recording
from edakari.methods.tickets.scores import ScoreName
from edakari.methods.tickets.selecting import Scope
from edakari.surgery import apply, mask_weights

__all__ = ["GradualMagnitude"]


@register("gradual_magnitude")
@settings
class GradualMagnitude:
    """Train with masks of single weights that grow to the sparsity of the budget, such as `sparsity>=90%`.

    Args:
        epochs: number of epochs of the training with masks.
        interval: number of epochs between two choices of masks.
        step: fraction of the weights by which the masks grow at each choice.
        one_shot: mask the budget's fraction at the first choice.
        scope: "global" compares the scores of all layers; "per_layer" masks the same fraction of each layer.
        score: score of a weight: "magnitude", or "random", "snip", "grasp" or "synflow" as baselines.
        reactivation: "persist" keeps masks between two choices; "after_prune" lifts them after each choice, so that all
            weights train until the next.
        excluded: names of weights or paths of modules that are not masked, perhaps with wildcards; they count in the
            sparsity.
        linear: mask weights of linear layers and of attention too, not only of convolutions.
        lr: peak learning rate of the training with masks.
        momentum: momentum of SGD in the training with masks.
        weight_decay: weight decay of all weights in the training with masks.
        lr_warmup: fraction of the steps in which the learning rate rises.
        precision: precision of the training: "auto", "fp32", "bf16" or "fp16".
    """

    paper: ClassVar[str] = "Zhu & Gupta, To Prune or Not to Prune, arXiv 1710.01878, 2017"
    emits: ClassVar[frozenset[type[Any]]] = frozenset({MaskWeights})
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    # differs: the paper's curve of the sparsity is cubic; the steps here are those of SuperTickets
    epochs: Count = 30
    interval: Count = 2
    step: PositiveFraction = 0.1
    one_shot: bool = False
    scope: Scope = "global"
    score: ScoreName = "magnitude"
    reactivation: Literal["persist", "after_prune"] = "persist"
    excluded: tuple[str, ...] = ()
    linear: bool = False
    lr: LearningRate = 0.05
    momentum: BelowOne = 0.9
    weight_decay: NonNegative = 5e-4
    lr_warmup: Fraction = 0.05
    precision: Precision = "fp32"

    def problems(self, budget: Budget) -> dict[str, str]:
        """See `edakari.core.method.Method`."""
        short = self._how(budget.sparsity).shortfall(self.epochs)
        return {"epochs": short} if short else {}

    def check_job(self, job: Job) -> None:
        """See `edakari.core.method.Method`."""
        self._hook(job)

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        hook = self._hook(job)
        schedule = Schedule(
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup=self.lr_warmup,
            precision=self.precision,
        )
        recording = Recording(job.artifacts, mask=hook)
        job.fit(job.model, task_objective(job.task), schedule, hooks=[hook, recording])
        hook.finish()
        recording.write()
        plan = mask_weights(job.graph, hook.masks, method="gradual_magnitude")
        return Outcome(plan, apply(job.model, plan, job.graph))

    def _hook(self, job: Job) -> ProgressiveMask:
        """The hook with the settings of a job, which are checked before anything is trained.

        Raises:
            BudgetError: the budget has no sparsity, or limits costs, or excluded layers leave too few weights.
            SettingsError: the epochs do not suffice for the sparsity.
        """
        target = job.budget.sparsity
        if not target or job.budget.terms:
            raise BudgetError(
                f"gradual_magnitude masks weights and removes no channels: it meets a budget such as 'sparsity>=90%', "
                f"not {str(job.budget)!r}"
            )
        require_possible(self, job.budget)
        return ProgressiveMask.of_job(job, self._how(target), self.excluded, linear=self.linear)

    def _how(self, target: float) -> ProgressiveMaskSettings:
        return ProgressiveMaskSettings(
            interval=self.interval,
            step=self.step,
            target=target,
            scope=self.scope,
            score=self.score,
            one_shot=self.one_shot,
            reactivation=self.reactivation,
        )
