"""HR-NAS: a penalty closes the gates of costly units while the network trains, and closed units are cut.

Ding et al., CVPR 2021; the search of SuperTickets (You et al., ECCV 2022). The method in four steps: (1) the scales of
batch norms are gates of the channels that pass them; (2) each step adds the gradient of an L1 penalty on the gates,
weighted by what one unit costs; (3) every few epochs, units whose gates have closed are cut from the network, its
optimizer and its averages, and paths and branches without units are dropped; (4) training continues with what is left.
With a budget, the strength of the penalty follows from how fast gates close, and the first event after
three quarters of the epochs meets the budget.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any, ClassVar, Literal

from edakari.core.budget import Budget
from edakari.core.method import Job, Outcome, register, require_possible
from edakari.core.objective import task_objective
from edakari.core.plan import DropBranch, KeepChannels, Plan
from edakari.core.protocols import Precision, Schedule
from edakari.core.settings import BelowOne, Count, Fraction, LearningRate, NonNegative, settings
from edakari.methods.tickets.gate_search import GateSearch
from edakari.methods.tickets.landing import SearchBudget
from edakari.methods.tickets.recording import Recording
from edakari.methods.tickets.search_events import SearchEvent
from edakari.methods.tickets.search_settings import Duration, GateSearchSettings
from edakari.train.loop import steps_per_epoch

__all__ = ["GateSearchMethod"]


@register("gate_search")
@settings
class GateSearchMethod(GateSearchSettings):
    """Train the network with a cost-weighted L1 penalty on batch norm scales, and cut what has closed while it trains.

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
        decay: largest decay of the moving average of the gates; it is shorter at first.
        steering: "budget" adapts `rho` until the budget is met, and meets it within 1 % after three quarters of the
            epochs; "rho" leaves `rho` as it is, as in the paper, and the budget must allow what that gives.
        epochs: number of epochs of the search.
        lr: peak learning rate of the search.
        momentum: momentum of SGD in the search.
        weight_decay: weight decay of weights with two or more dimensions in the search.
        lr_warmup: fraction of the steps in which the learning rate rises.
        ema: decay of the averaged weights that are returned; 0 does not average.
        precision: precision of the search: "auto", "fp32", "bf16" or "fp16".
    """

    paper: ClassVar[str] = (
        "Ding et al., HR-NAS: Searching Efficient High-Resolution Neural Architectures with Lightweight Transformers, "
        "CVPR 2021"
    )
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels, DropBranch})
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    from_scratch: ClassVar[bool] = True

    # differs: the paper steers by rho alone, and the size of the result is what that gives
    steering: Literal["budget", "rho"] = "budget"
    epochs: Count = 350
    # differs: the authors train by RMSprop with a learning rate of 0.032 and a staircase
    lr: LearningRate = 0.1
    momentum: BelowOne = 0.9
    weight_decay: NonNegative = 1e-5
    lr_warmup: Fraction = 0.015
    ema: BelowOne = 0.0
    precision: Precision = "fp32"

    def problems(self, budget: Budget) -> dict[str, str]:
        """See `edakari.core.method.Method`."""
        found = {}
        if idle := self.idleness(self.epochs):
            found["free_epochs"] = idle
        if self.steering == "rho" and not self.rho and any(term.relative and term.limit < 1 for term in budget.terms):
            found["rho"] = f"0 closes no gate, and the budget asks for {budget}; raise rho, or set steering to 'budget'"
        return found

    def check_job(self, job: Job) -> None:
        """See `edakari.core.method.Method`."""
        self._search(job)

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        search = self._search(job)
        if search is None:
            return Outcome(Plan((), job.graph.fingerprint, job.graph.inputs, "gate_search"), job.model)
        hooks = [search, Recording(job.artifacts, search)]
        job.fit(job.model, task_objective(job.task), self._schedule(), hooks=hooks)
        return Outcome(search.plan, job.model)

    def _search(self, job: Job) -> GateSearch | None:
        """The hook that searches; None if the network meets the budget as it is."""
        require_possible(self, job.budget)
        # before anything is measured, a latency is not among the limits
        budget = SearchBudget.of_job(job) if self.steering == "budget" and job.budget.terms else None
        if budget is not None and budget.limits.excess({}) <= 0:
            return None
        duration = Duration(self.epochs, steps_per_epoch(job.task.batches("train"), self._schedule()))

        def tell(event: SearchEvent) -> None:
            job.log(f"search event after epoch {event.epoch}", event.figures())

        return GateSearch(
            self.search_settings(), job.model, job.graph, duration, groups=job.groups, budget=budget, listeners=[tell]
        )

    def _schedule(self) -> Schedule:
        return Schedule(
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup=self.lr_warmup,
            ema=self.ema,
            precision=self.precision,
        )

    def search_settings(self) -> GateSearchSettings:
        """Return the settings of the search without those of the training."""
        return GateSearchSettings(**{field.name: getattr(self, field.name) for field in dc.fields(GateSearchSettings)})
