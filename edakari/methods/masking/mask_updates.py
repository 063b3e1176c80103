"""Masks that are chosen anew while a network trains: gather importance, solve for sizes, set masks."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch

from edakari.core.budget import Limits
from edakari.core.method import Job, Outcome
from edakari.core.objective import task_objective
from edakari.core.plan import DropBranch, Edit, KeepChannels, Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Cost, Hook, Schedule, StepState, Values
from edakari.core.space import Group, Sizes, legal_sizes
from edakari.cost import bind
from edakari.errors import ModelError
from edakari.methods.masking.masks import Masks
from edakari.solve import Knapsack, values_of
from edakari.solve.spend import reachable
from edakari.surgery import apply
from edakari.train.gradients import with_gradients

__all__ = [
    "Average",
    "Importance",
    "MaskSchedule",
    "MaskUpdateHook",
    "Regrowth",
    "ScoreAveraging",
    "Solver",
    "train_and_cut",
    "values_at",
]

Average = Literal["average", "signed_average", "squares", "momentum", "latest"]
Regrowth = Literal["absolute", "signed"]
Importance = Callable[[Masks], torch.Tensor | None]
"""Change of the loss, to first order, if each channel were gone: float [channels]; None without gradients."""

Solver = Callable[[Sequence[Group], Values, Limits, Sizes], Sizes]
"""Sizes from groups, values, limits and the sizes as they are."""

MEANS = ("average", "signed_average", "squares")
MOMENTUM = 0.9


class MaskSchedule(Protocol):
    """When masks are chosen, and at which budget."""

    def due(self, step: int, epoch: int) -> bool:
        """Whether masks are chosen after this many steps, in this epoch."""

    def over(self, step: int, epoch: int) -> bool:
        """Whether masks stay as they are from here on."""

    def limit(self, dense: float, final: float, step: int, epoch: int) -> float:
        """What a cost may be now, from what it is without masks and what it may be in the end."""


@dc.dataclass(frozen=True, kw_only=True)
class ScoreAveraging:
    """How figures of single steps become scores.

    Args:
        average: "average" of the absolute figures since masks were last chosen, "signed_average" of the figures
            themselves, "squares" of them (Molchanov et al., CVPR 2019, equation 8), "momentum" weighs later steps more,
            "latest" takes one step.
        regrowth: what counts for a masked channel: "absolute" figures, or "signed": only those by which its return
            would lower the loss.
        keep_bonus: scores of what is not masked are multiplied by it.
        masked_decay: decay of masked weights, beside the optimizer's.
    """

    average: Average = "average"
    regrowth: Regrowth = "absolute"
    keep_bonus: float = 1.0
    masked_decay: float = 0.0


class MaskUpdateHook(Hook):
    """Chooses masks while `fit` trains; run state.

    Figures are taken between the gradients and the optimizer's step: of the same weights that the gradients are of,
    unscaled, reduced over processes, and before any decay. A step whose gradients are not finite does not count; where
    masks were due then, they are chosen after the next one that does.

    Args:
        masks: to set.
        job: whose network trains, down to its budget.
        mask_schedule: when, and at which budget.
        importance: figures of one step.
        averaging: how they become scores.
        solver: from values to sizes, all but the last time; the last time true costs are solved for.

    Raises:
        InfeasibleBudget: the budget lies below what the masks can reach.
    """

    def __init__(
        self,
        masks: Masks,
        job: Job,
        mask_schedule: MaskSchedule,
        importance: Importance,
        averaging: ScoreAveraging = ScoreAveraging(),
        solver: Solver | None = None,
    ) -> None:
        self.masks, self.job, self.mask_schedule, self.importance = masks, job, mask_schedule, importance
        self.averaging, self.solver = averaging, solver or _true_cost
        self.limits = bind(job.budget, job.graph, job.costs)
        reachable(masks.groups, {group.name: np.zeros(group.size + 1) for group in masks.groups}, self.limits)
        self.final, self.revived, self.rounds = False, 0, 0
        self._sum = torch.zeros(masks.size)
        self._count = torch.zeros(())
        self._scores = torch.zeros(0, dtype=torch.float64)
        self._pending, self._due, self._watched = False, False, False

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        if not self._watched:
            with_gradients(state.optimizer, self._gradients_are_there)
            self._watched = True
        if not self.final and self.mask_schedule.over(state.step, state.epoch):
            self.finish()
        self._due = not self.final and (self._pending or self.mask_schedule.due(state.step + 1, state.epoch))

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        if not self._due:
            return
        self._pending = not self._take_scores()
        if not self._pending:
            terms = [(cost, cost.total({}), limit) for cost, limit in self.limits.terms]
            now = [(cost, self.mask_schedule.limit(dense, end, state.step, state.epoch)) for cost, dense, end in terms]
            self._set(self._chosen(Limits(tuple(now)), self.solver))

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        if not self.final and self.rounds:
            sizes = self.sizes()
            costs = {cost.name: cost.total(sizes) for cost, _ in self.limits.terms}
            self.job.log(f"epoch {state.epoch + 1}", {**costs, "rounds": self.rounds, "revived": self.revived})

    def finish(self) -> None:
        """Choose the masks for the last time, within the budget by true costs; does nothing the second time.

        Raises:
            ModelError: there has been no step with finite gradients to judge by.
        """
        if self.final:
            return
        if not self._take_scores() and not len(self._scores):
            raise ModelError("no step had finite gradients, so that nothing is known of what matters; lower the rate")
        tried: dict[str, torch.Tensor] = {}

        def solve(costs: Sequence[Cost]) -> Plan:
            kept = self._chosen(bind(self.job.budget, self.job.graph, costs), _true_cost)
            plan = self.plan(kept)
            tried[plan.digest()] = kept
            return plan

        self._set(tried[self.job.meet_budget(solve).digest()])
        self.final = True

    def sizes(self) -> dict[str, int]:
        """How much of each group is kept now."""
        return {group.name: int(self.masks.kept[self.masks.part(group.name)].sum()) for group in self.masks.groups}

    def plan(self, kept: torch.Tensor) -> Plan:
        """What masks amount to; groups that are whole have no edit."""
        edits: list[Edit] = []
        for group in self.masks.groups:
            part = kept[self.masks.part(group.name)]
            if group.kind == "branch" and not bool(part):
                edits.append(DropBranch(group.name))
            elif not bool(part.all()):
                edits.append(KeepChannels(group.name, tuple(part.nonzero().view(-1).tolist())))
        return Plan(tuple(edits), self.job.graph.fingerprint, self.job.graph.inputs)

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        tensors = {"kept": self.masks.kept, "sum": self._sum, "count": self._count, "scores": self._scores}
        numbers = {"final": self.final, "pending": self._pending, "revived": self.revived, "rounds": self.rounds}
        return {**tensors, **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self._sum, self._count, self._scores = state["sum"], state["count"], state["scores"].cpu()
        self.final, self._pending = bool(state["final"]), bool(state["pending"])
        self.revived, self.rounds = int(state["revived"]), int(state["rounds"])
        self.masks.set(state["kept"].cpu())

    def _gradients_are_there(self) -> None:
        if self.final:
            return
        if self._due or self.averaging.average != "latest":
            self._gather()
        self.masks.pull(self.averaging.masked_decay)

    @torch.no_grad()
    def _gather(self) -> None:
        """Add one step's figures; no value is looked at, so that a device is not waited for."""
        figures = self.importance(self.masks)
        if figures is None:
            return
        average = self.averaging.average
        figures = figures if average == "signed_average" else self._worth(figures)
        figures = figures.square() if average == "squares" else figures
        finite = figures.isfinite().all()
        figures = torch.where(finite, figures, 0.0)
        total, self._count = self._sum.to(figures), self._count.to(figures) + finite
        if average in MEANS:
            self._sum = total + figures
        elif average == "momentum":
            self._sum = torch.where(finite, MOMENTUM * total + (1 - MOMENTUM) * figures, total)
        else:
            self._sum = torch.where(finite, figures, total)

    def _worth(self, figures: torch.Tensor) -> torch.Tensor:
        if self.averaging.regrowth == "absolute":
            return figures.abs()
        kept = self.masks.kept.to(figures.device, non_blocking=True)
        return torch.where(kept, figures.abs(), figures.clamp(min=0))

    def _take_scores(self) -> bool:
        """Scores from what was gathered since the last time, which is forgotten; False where nothing was."""
        row = self._agreed(torch.cat([self._sum, self._count.view(1)]))
        figures, count = row[:-1], row[-1]
        if not bool(count > 0):
            return False
        average = self.averaging.average
        figures = figures / count if average in MEANS else figures
        self._scores = self._worth(figures) if average == "signed_average" else figures
        self._sum, self._count = torch.zeros_like(self._sum), torch.zeros_like(self._count)
        return True

    def _agreed(self, row: torch.Tensor) -> torch.Tensor:
        """The first process's figures, so that all of them choose the same masks; float64 on the CPU."""
        Processes.here().equalise_([row])
        return row.cpu().double()

    def _chosen(self, limits: Limits, solver: Solver) -> torch.Tensor:
        """Masks within some limits by the scores as they are, bool [channels]."""
        masks, before = self.masks, self.masks.kept
        scores = torch.where(before, self._scores * self.averaging.keep_bonus, self._scores)
        if masks.mode == "permanent":
            scores = torch.where(before, scores, 0.0)
        # what is masked and worth nothing stays so, even where the budget would let it return
        candidates = before | (scores > 0)
        sizes = solver(masks.groups, values_at(masks, scores), limits, self.sizes())
        kept = torch.zeros_like(before)
        for group in masks.groups:
            part = masks.part(group.name)
            most = int(candidates[part].sum())
            size = min(sizes[group.name], next(legal for legal in legal_sizes(group) if legal >= most))
            rank = torch.where(candidates[part], scores[part], -1.0)
            order = torch.argsort(rank, descending=True, stable=True)
            kept[part.start + order[:size]] = True
        return kept

    def _set(self, kept: torch.Tensor) -> None:
        self.revived += int((kept & ~self.masks.kept).sum())
        self.rounds += 1
        self.masks.set(kept)


def train_and_cut(name: str, job: Job, hook: MaskUpdateHook, schedule: Schedule) -> Outcome:
    """Train a job's network under its masks, then cut what is masked in the end.

    A network within the budget stays as it is.

    Args:
        name: of the method, noted in the plan.
        job: network, budget and data.
        hook: chooses the masks.
        schedule: of the training.
    """
    masks = hook.masks
    if hook.limits.excess({}) > 0:
        with masks.installed():
            job.fit(
                job.model,
                task_objective(job.task),
                schedule,
                hooks=[hook],
            )
            hook.finish()
        masks.fold()
    plan = dc.replace(hook.plan(masks.kept), method=name)
    return Outcome(plan, apply(job.model, plan, job.graph))


def values_at(masks: Masks, scores: torch.Tensor) -> Values:
    """Values of keeping the best channels of each group.

    A branch that is dropped takes the groups inside of it along, but sizes do not say so: those groups cost nothing
    then, and are worth all that they can be. A branch that stays is therefore worth that much more.

    Args:
        masks: of the groups.
        scores: float64 [channels].
    """
    values = dict(values_of({group.name: scores[masks.part(group.name)] for group in masks.groups}))
    for branch in masks.branches:
        own = {*branch.parameters}
        for group in masks.groups:
            members = masks.graph.members(group.name)
            if members and all(member.tensor in own for member in members):
                values[branch.name] = values[branch.name] + np.array([0.0, values[group.name][-1]])
    return values


def _true_cost(groups: Sequence[Group], values: Values, limits: Limits, sizes: Sizes) -> Sizes:
    return Knapsack().allocate(groups, values, limits)
