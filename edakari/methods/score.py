"""Scores channels by a criterion, allocates the budget and cuts: the baselines, and every user-defined criterion.

The name of a criterion stands for this method: `method: taylor` means `method: {name: score, criterion: taylor}`.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import math
from typing import Annotated, Any, ClassVar

from edakari.core.budget import Budget
from edakari.core.method import METHODS, Job, Outcome, register
from edakari.core.objective import can_train
from edakari.core.plan import DropBranch, KeepChannels, KeepTokens
from edakari.core.protocols import Allocator, Criterion, Task
from edakari.core.settings import Count, LearningRate, Whole, settings
from edakari.cost import bind
from edakari.criteria import CRITERIA, Magnitude
from edakari.methods.iterative import Iterations, LazyCalibration, prune_by
from edakari.methods.tokens.sharing import TokenSharing, check_shared, prune_shared
from edakari.solve import ALLOCATORS, Threshold
from edakari.surgery.tokens import TokenSites
from edakari.surgery.tokens.design import TokenDesign

__all__ = ["ScorePruning"]

DEEP = 0.4
"""Fraction of a cost below which a budget is deep."""
KEPT_PER_CUT = 0.6
"""Fraction of the cost that each cut to a deep budget keeps at least."""


TOKENLESS = frozenset({"params", "size"})
"""Costs that do not depend on the number of tokens."""


@register("score")
@settings
class ScorePruning:
    """Remove the channels that a criterion scores lowest; an allocator decides how many of each group.

    A budget below 40 % of a cost is deep: one cut to it leaves a network that a short fine-tuning hardly repairs. By
    default, it is therefore reached in several cuts with an epoch of training after each but the last, if the task can
    train. Without data it stays one cut, and the result asks for a fine-tuning.

    Args:
        criterion: criterion that scores the channels: a name, or a mapping of its name and its settings.
        allocator: allocator that spends the budget on the groups: a name, or a mapping of its name and its settings.
        iterations: number of cuts on the way to the budget; 1 is one-shot. None is 1; for a deep budget and a task that
            can train, as many as keep 60 % of the cost each.
        recovery_epochs: number of training epochs after each cut except the last. None is 1 if `iterations` is None,
            and else 0.
        recovery_lr: peak learning rate of the training between cuts.
        tokens: pruning of a vision transformer's tokens, and perhaps branches, under the same budget, in one cut; None
            keeps all.
    """

    paper: ClassVar[str] = "the paper of the chosen criterion"
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels})

    criterion: Annotated[Criterion, CRITERIA] = Magnitude()
    allocator: Annotated[Allocator, ALLOCATORS] = Threshold()
    iterations: Count | None = None
    recovery_epochs: Whole | None = None
    recovery_lr: LearningRate = 0.01
    tokens: TokenSharing | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None:  # the plan has several kinds of edits
            emits = {KeepChannels, KeepTokens, *([DropBranch] if self.tokens.drops else [])}
            object.__setattr__(self, "emits", frozenset(emits))

    @property
    def needs_data(self) -> bool:
        """Whether the method needs data itself; the criterion has a `needs_data` of its own."""
        return self._compares or self._recovers

    @property
    def _compares(self) -> bool:
        return self.tokens is not None and self.tokens.compares

    @property
    def _recovers(self) -> bool:
        return (self.iterations or 1) > 1 and bool(self.recovery_epochs)

    @property
    def needs_training(self) -> bool:
        """Whether the method needs training between cuts, whatever the budget and the task."""
        return self._compares or self._recovers

    def cuts(self, task: Task, fraction: float) -> Iterations:
        """Return the number of cuts to a budget, and the training between them.

        Args:
            task: task of the network.
            fraction: smallest limit of the budget, as a fraction of the unpruned network's cost.
        """
        if self.iterations is not None:
            return Iterations(self.iterations, self.recovery_epochs or 0, self.recovery_lr)
        epochs = 1 if self.recovery_epochs is None else self.recovery_epochs
        if fraction >= DEEP or not epochs or not can_train(task):
            return Iterations()
        return Iterations(math.ceil(math.log(fraction) / math.log(KEPT_PER_CUT)), epochs, self.recovery_lr)

    def problems(self, budget: Budget) -> dict[str, str]:
        """See `edakari.core.method.Method`."""
        if self.tokens is None:
            return {}
        found = {}
        if (self.iterations or 1) > 1:
            found["iterations"] = f"must be 1 with tokens, which are pruned in one cut, found {self.iterations}"
        if {term.cost for term in budget.terms} <= TOKENLESS:
            found["tokens"] = (
                f"do not change what {str(budget)!r} limits; budget macs or a latency, or leave tokens out"
            )
        return found

    def check_job(self, job: Job) -> None:
        """See `edakari.core.method.Method`."""
        if self.tokens is not None:
            check_shared(job, self.tokens)

    def design(self, sites: TokenSites) -> TokenDesign:
        """Return the selectors of tokens and their blocks; without `tokens`, those that they would have."""
        return (self.tokens or TokenSharing()).design(sites)

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        if self.tokens is not None:
            return self._shared(job, self.tokens)
        name = CRITERIA.name_of(self.criterion) or type(self.criterion).__name__
        cost, fraction = tightest(job)
        iterations = self.cuts(job.task, fraction)
        if self.iterations is None and iterations.count > 1:
            job.log(f"{iterations.count} cuts, with training between them, as the budget is deep", {cost: fraction})
        outcome = prune_by(name, seeded(self.criterion, job.seed), self.allocator, iterations, job)
        untrained = fraction < DEEP and not (iterations.count > 1 and iterations.recovery_epochs)
        advice = f"fine-tune it before you use it: it was cut to {fraction:.0%} of its {cost} without training"
        return dc.replace(outcome, advice=advice) if untrained else outcome

    def _shared(self, job: Job, tokens: TokenSharing) -> Outcome:
        criterion, name = seeded(self.criterion, job.seed), CRITERIA.name_of(self.criterion)
        score = functools.partial(criterion.score, job.model, job.graph, LazyCalibration(job), job.task)
        scores = job.scoring(criterion, score)
        return prune_shared(name or type(criterion).__name__, scores, self.allocator, tokens, job)


def tightest(job: Job) -> tuple[str, float]:
    """Return the cost that a job's budget limits most, and its limit as a fraction of the unpruned network's cost."""
    limits = bind(job.budget, job.graph, job.costs)
    found = [(cost.name, limit / dense) for cost, limit in limits.terms if (dense := cost.total({})) > 0]
    return min(found, key=lambda each: each[1], default=("", 1.0))


def seeded(criterion: Criterion, seed: int) -> Criterion:
    """Return the criterion with the seed of a job, if its field `seed` is None.

    Args:
        criterion: criterion, with or without a field `seed`.
        seed: seed of the job.
    """
    if getattr(criterion, "seed", 0) is None and dc.is_dataclass(criterion) and not isinstance(criterion, type):
        return dc.replace(criterion, seed=seed)
    return criterion


METHODS.shorten(CRITERIA, "score", "criterion")
