"""SuperTickets: the search for a small network and the pruning of its weights in one training run.

You et al., ECCV 2022. The method in five steps: (1) each step trains the weights, and a cost-weighted L1 penalty closes
the gates of costly units; (2) every few epochs, units whose gates have closed are cut from the network, its optimizer
and its averages; (3) every few epochs, the weights of smallest magnitude are masked, more of them each time; (4) a
search that removes units lifts all masks again, so that every weight trains until the next choice of masks; (5) in the
end, search, masks and statistics of batch norms are settled in this order. The ticket is what is left: structure, masks
and averaged weights together.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any, ClassVar

from edakari.core.budget import Budget
from edakari.core.curves import Exponential
from edakari.core.method import Job, Outcome, register, require_possible
from edakari.core.objective import task_objective
from edakari.core.plan import DropBranch, KeepChannels, MaskWeights, Plan
from edakari.core.protocols import Hook, Schedule
from edakari.core.settings import Whole, settings
from edakari.errors import SettingsError
from edakari.methods.tickets.gate_search import GateSearch
from edakari.methods.tickets.landing import SearchBudget
from edakari.methods.tickets.mask_schedule import MaskSettings
from edakari.methods.tickets.progressive_mask import ProgressiveMask
from edakari.methods.tickets.recording import Recording
from edakari.methods.tickets.search_events import SearchEvent
from edakari.methods.tickets.search_settings import Duration, GateSearchSettings
from edakari.methods.tickets.ticket import Evaluation, Ticket
from edakari.surgery import apply, mask_weights
from edakari.train.epochs import steps_per_epoch
from edakari.train.weight_average import WeightAverage

__all__ = ["SuperTickets"]

NAME = "supertickets"
IMAGENET = Schedule(
    epochs=350,
    lr=0.032,
    optimizer="rmsprop",
    momentum=0.9,
    weight_decay=0.0,
    curve=Exponential(factor=0.97, every=2.4, warmup=5 / 350, warmup_from=0.5),
    eps=1e-3,
    l2=1e-5,
)
"""The authors' schedule for ImageNet, with 512 images a batch."""


@register(NAME)
@settings
class SuperTickets:
    """Train once, and while the network trains cut units that have closed and mask single weights.

    The budget says how many weights are masked, such as `sparsity>=90%` of those that are left in the end. Alone, it
    leaves the size of the network to `search.rho`, as in the paper. With limits of costs, as in
    `macs<=40%, sparsity>=90%`, the search adapts `rho` until they are met, and the first event after three quarters of
    the epochs meets them within 1 %. Without a sparsity no weight is masked.

    Args:
        search: when and how strongly gates are closed. Its `decay` is also that of the averaged weights.
        masks: when and how masked weights are chosen.
        schedule: schedule of the training.
        excluded: names of weights or paths of modules that are not masked, perhaps with wildcards; they count in the
            sparsity.
        linear: mask weights of linear layers and of attention too, not only of convolutions.
        recalibrate: number of calibration batches of which batch norms recompute their statistics, before each
            evaluation and in the end; 0 keeps the averaged statistics.
    """

    paper: ClassVar[str] = (
        "You et al., SuperTickets: Drawing Task-Agnostic Lottery Tickets from Supernets via Jointly Architecture "
        "Searching and Parameter Pruning, ECCV 2022"
    )
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels, DropBranch, MaskWeights})
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    from_scratch: ClassVar[bool] = True

    search: GateSearchSettings = GateSearchSettings()
    masks: MaskSettings = MaskSettings()
    schedule: Schedule = IMAGENET
    excluded: tuple[str, ...] = ()
    linear: bool = False
    recalibrate: Whole = 10

    def __post_init__(self) -> None:
        if self.schedule.ema:
            raise SettingsError(
                f"{NAME}: schedule.ema={self.schedule.ema:g} would average twice; leave it at 0: the ticket has "
                "averaged weights, by search.decay"
            )
        if not self.schedule.epochs:
            raise SettingsError(f"{NAME}: schedule.epochs must be at least 1")

    def problems(self, budget: Budget) -> dict[str, str]:
        """See `edakari.core.method.Method`."""
        epochs = self.schedule.epochs
        found = {
            "schedule.epochs": self.masks.to(budget.sparsity).shortfall(epochs),
            "search.free_epochs": self.search.idleness(epochs),
        }
        return {key: text for key, text in found.items() if text}

    def check_job(self, job: Job) -> None:
        """See `edakari.core.method.Method`."""
        self._hooks(job, WeightAverage(self.search.decay))

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        average = WeightAverage(self.search.decay)
        hooked = self._hooks(job, average)
        if hooked is None:
            return Outcome(Plan((), job.graph.fingerprint, job.graph.inputs, NAME), job.model)
        search, mask = hooked
        ticket = Ticket(average, mask, job.task, self.recalibrate)
        searched = Evaluation(ticket, self._searches, "network before the search", job.log)
        masked = Evaluation(ticket, self._masks, "ticket", job.log)
        # the average sees the values of masked weights: after a step, it comes before the masks
        recording = Recording(
            job.artifacts, search, mask, searched=lambda: searched.metrics, masked=lambda: masked.metrics
        )
        hooks: list[Hook] = [average, searched, search, *([mask, masked] if mask else []), recording]
        job.fit(job.model, task_objective(job.task), self.schedule, hooks=hooks)
        if mask is not None:
            mask.finish()
            if not self._masks(self.schedule.epochs):
                masked.evaluate(job.model, self.schedule.epochs)
            recording.write()
        return _outcome(job, search, ticket)

    def _hooks(self, job: Job, average: WeightAverage) -> tuple[GateSearch, ProgressiveMask | None] | None:
        """The hooks that search and mask; None if the network meets the budget as it is."""
        require_possible(self, job.budget)
        budget = _limits(job)
        if budget is not None and budget.limits.excess({}) <= 0 and not job.budget.sparsity:
            return None
        mask = self._mask(job)
        return self._search(job, budget, average, mask), mask

    def _searches(self, epochs: int) -> bool:
        return epochs % self.search.interval == 0 or epochs == self.schedule.epochs

    def _masks(self, epochs: int) -> bool:
        return epochs % self.masks.interval == 0

    def _mask(self, job: Job) -> ProgressiveMask | None:
        """The hook that masks weights; None for a budget without a sparsity.

        Raises:
            InfeasibleBudget: the excluded layers leave too few weights.
            PlanError: a pattern of `excluded` matches no parameter.
        """
        if not job.budget.sparsity:
            return None
        how = self.masks.to(job.budget.sparsity)
        return ProgressiveMask.of_job(job, how, self.excluded, linear=self.linear)

    def _search(
        self, job: Job, budget: SearchBudget | None, average: WeightAverage, mask: ProgressiveMask | None
    ) -> GateSearch:
        """The hook that searches; masks and averages follow it."""

        def tell(event: SearchEvent) -> None:
            job.log(f"search event after epoch {event.epoch}", event.figures())
            if mask is not None:
                mask.searched(event.executed)

        duration = Duration(self.schedule.epochs, steps_per_epoch(job.task.batches("train"), self.schedule))
        return GateSearch(
            self.search,
            job.model,
            job.graph,
            duration,
            groups=job.groups,
            budget=budget,
            followers=[average, *([mask] if mask else [])],
            listeners=[tell],
        )


def _limits(job: Job) -> SearchBudget | None:
    """The limits of costs that the search meets; None if the budget has none, so that `rho` decides."""
    limits = job.budget.limits
    return SearchBudget.of_job(dc.replace(job, budget=limits)) if limits.terms else None


def _outcome(job: Job, search: GateSearch, ticket: Ticket) -> Outcome:
    """The ticket, and the plan that leads to it from the dense network."""
    masks = ticket.mask.masks if ticket.mask is not None else {}
    masked = mask_weights(search.present, masks)
    plan = search.plan.then(masked, graph=job.graph)
    return Outcome(dc.replace(plan, method=NAME), apply(ticket.copy(job.model), masked, search.present))
