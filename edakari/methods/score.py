"""Scores channels by a criterion, allocates the budget and cuts: the baselines, and every user-defined criterion.

The name of a criterion stands for this method: `method: taylor` means `method: {name: score, criterion: taylor}`.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Annotated, Any, ClassVar

from edakari.core.method import METHODS, Job, Outcome, register
from edakari.core.plan import KeepChannels
from edakari.core.protocols import Allocator, Criterion
from edakari.core.settings import Count, LearningRate, Whole, settings
from edakari.criteria import CRITERIA, Magnitude
from edakari.methods.iterative import Iterations, prune_by
from edakari.solve import ALLOCATORS, Threshold

__all__ = ["ScorePruning"]


@register("score")
@settings
class ScorePruning:
    """Remove the channels that a criterion scores lowest; an allocator decides how many of each group.

    Args:
        criterion: criterion that scores the channels: a name, or a mapping of its name and its settings.
        allocator: allocator that spends the budget on the groups: a name, or a mapping of its name and its settings.
        iterations: number of cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of the training between cuts.
    """

    paper: ClassVar[str] = "the paper of the chosen criterion"
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels})

    criterion: Annotated[Criterion, CRITERIA] = Magnitude()
    allocator: Annotated[Allocator, ALLOCATORS] = Threshold()
    iterations: Count = 1
    recovery_epochs: Whole = 0
    recovery_lr: LearningRate = 0.01

    @property
    def needs_data(self) -> bool:
        """Whether the method needs data itself; the criterion has a `needs_data` of its own."""
        return self.iterations > 1 and self.recovery_epochs > 0

    @property
    def needs_training(self) -> bool:
        """Whether the method trains between cuts."""
        return self.needs_data

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        name = CRITERIA.name_of(self.criterion) or type(self.criterion).__name__
        iterations = Iterations(self.iterations, self.recovery_epochs, self.recovery_lr)
        return prune_by(name, seeded(self.criterion, job.seed), self.allocator, iterations, job)


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
