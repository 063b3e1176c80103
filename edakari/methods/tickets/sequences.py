"""What SuperTickets is compared with: search and pruning one after the other, on the same parts.

They are methods for `edakari.prune`, without names of their own. Each returns a network without retraining; a
fine-tuning after it is the variant with retraining, and keeps the masks.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from edakari.core.budget import Budget
from edakari.core.copying import copied
from edakari.core.method import Job, Outcome
from edakari.core.plan import DropBranch, KeepChannels, MaskWeights, Plan
from edakari.core.processes import Processes
from edakari.core.settings import Count, settings
from edakari.errors import BudgetError, SettingsError
from edakari.graph import trace
from edakari.methods.supertickets import SuperTickets
from edakari.methods.tickets.baselines import one_shot, rewind
from edakari.methods.tickets.scores import ScoreName
from edakari.surgery import apply, mask_weights
from edakari.train.statistics import recalibrate

__all__ = ["LotteryTicket", "PruneThenSearch", "SearchThenPrune"]

EMITS: frozenset[type[Any]] = frozenset({KeepChannels, DropBranch, MaskWeights})


@settings
class SearchThenPrune:
    """Search a network by its gates, then mask its weights in one shot to the sparsity of the budget.

    Args:
        tickets: settings of search and training; its masks are not used. The search meets the budget's limits of costs;
            without any, `search.rho` decides.
        score: score of a weight: "magnitude", "random", "snip", "grasp" or "synflow".
    """

    paper: ClassVar[str] = "none; a baseline of SuperTickets (You et al., ECCV 2022)"
    emits: ClassVar[frozenset[type[Any]]] = EMITS
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    tickets: SuperTickets = SuperTickets()
    score: ScoreName = "magnitude"

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        found = self.tickets.prune(_search_alone(job))
        masks = one_shot(found.model, job.task, job.budget.sparsity, self.score, seed=job.seed)
        return _masked(job, found.plan, found.model, masks, self.tickets)

    def problems(self, budget: Budget) -> dict[str, str]:
        """See `edakari.core.method.Method`."""
        return _problems(self.tickets, budget.limits)

    def check_job(self, job: Job) -> None:
        """See `edakari.core.method.Method`."""
        self.tickets.check_job(_search_alone(job))


@settings
class LotteryTicket:
    """Search a network, mask its weights by magnitude, and return what is left to the weights before the search.

    Without a fine-tuning afterwards the result is untrained.

    Args:
        tickets: see `SearchThenPrune`; its training is the one that the masks come from.
    """

    paper: ClassVar[str] = "Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019"
    emits: ClassVar[frozenset[type[Any]]] = EMITS
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    tickets: SuperTickets = SuperTickets()

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        original = copied(job.model)
        found = self.tickets.prune(_search_alone(job))
        masks = one_shot(found.model, job.task, job.budget.sparsity)
        early = apply(original, found.plan, job.graph).state_dict()
        return _masked(job, found.plan, rewind(found.model, early, masks), masks, self.tickets)

    def problems(self, budget: Budget) -> dict[str, str]:
        """See `edakari.core.method.Method`."""
        return _problems(self.tickets, budget.limits)

    def check_job(self, job: Job) -> None:
        """See `edakari.core.method.Method`."""
        self.tickets.check_job(_search_alone(job))


@settings
class PruneThenSearch:
    """Mask weights in one shot in the middle of a training, and search only then.

    The masks follow the search. What it removes changes their fraction, so they are completed in the end, by magnitude.

    Args:
        tickets: settings of search, masks and training; the times of the masks and the start of the penalty are set
            here.
        after: number of epochs before masks are chosen and the penalty begins; more than half of all.
    """

    paper: ClassVar[str] = "none; a baseline of SuperTickets (You et al., ECCV 2022)"
    emits: ClassVar[frozenset[type[Any]]] = EMITS
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True

    tickets: SuperTickets = SuperTickets()
    after: Count = 176

    def __post_init__(self) -> None:
        epochs = self.tickets.schedule.epochs
        if not epochs < 2 * self.after < 2 * epochs:
            raise SettingsError(
                f"PruneThenSearch: after={self.after} must be more than half of the {epochs} epochs, so that masks are "
                "chosen once, and fewer than all"
            )

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return self._as_tickets().prune(job)

    def problems(self, budget: Budget) -> dict[str, str]:
        """See `edakari.core.method.Method`."""
        return _problems(self._as_tickets(), budget)

    def check_job(self, job: Job) -> None:
        """See `edakari.core.method.Method`."""
        self._as_tickets().check_job(job)

    def _as_tickets(self) -> SuperTickets:
        warm = max(self.tickets.search.warmup_epochs, float(self.after))
        search = dc.replace(self.tickets.search, free_epochs=float(self.after), warmup_epochs=warm)
        masks = dc.replace(self.tickets.masks, interval=self.after, one_shot=True, reactivation="persist")
        return dc.replace(self.tickets, search=search, masks=masks)


def _problems(tickets: SuperTickets, budget: Budget) -> dict[str, str]:
    return {f"tickets.{key}": text for key, text in tickets.problems(budget).items()}


def _search_alone(job: Job) -> Job:
    """The same job without the sparsity, for a search without masks.

    Raises:
        BudgetError: the budget has no sparsity.
    """
    if not job.budget.sparsity:
        raise BudgetError(f"this baseline masks weights: add a sparsity to the budget {str(job.budget)!r}")
    return dc.replace(job, budget=job.budget.limits)


def _masked(
    job: Job, plan: Plan, model: nn.Module, masks: Mapping[str, torch.Tensor], tickets: SuperTickets
) -> Outcome:
    """The network with masks, and statistics of batch norms that fit them."""
    graph = trace(model, job.task.example())
    masked = mask_weights(graph, masks)
    small = apply(model, masked, graph)
    if tickets.recalibrate:
        some = Processes.here().own(job.task.batches("calibration"), tickets.recalibrate)
        small = recalibrate(small, some, job.task.outputs)
    return Outcome(dc.replace(plan.then(masked, graph=job.graph), method=""), small)
