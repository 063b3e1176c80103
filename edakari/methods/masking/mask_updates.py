"""Masks that are updated while a network trains: accumulate importance, solve for sizes, set masks."""

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
"""A function from masks to the first-order change of the loss without each channel, float [channels], or None if there
are no gradients."""

Solver = Callable[[Sequence[Group], Values, Limits, Sizes], Sizes]
"""A function from groups, values, limits and current sizes to new sizes."""

MEANS = ("average", "signed_average", "squares")
MOMENTUM = 0.9


class MaskSchedule(Protocol):
    """The steps at which masks are chosen, and the budget at each."""

    def due(self, step: int, epoch: int) -> bool:
        """Whether masks are chosen after a number of steps.

        Args:
            step: number of steps so far.
            epoch: index of the epoch, from 0.
        """

    def over(self, step: int, epoch: int) -> bool:
        """Whether masks are frozen from a step on.

        Args:
            step: number of steps so far.
            epoch: index of the epoch, from 0.
        """

    def limit(self, dense: float, final: float, step: int, epoch: int) -> float:
        """Return the limit of a cost at a step, in the cost's unit.

        Args:
            dense: cost without masks.
            final: limit at the end.
            step: index of the step.
            epoch: index of the epoch, from 0.
        """


@dc.dataclass(frozen=True, kw_only=True)
class ScoreAveraging:
    """Settings by which the importance in single steps becomes scores.

    Args:
        average: mean since masks were last chosen: "average" of absolute importance, "signed_average" of importance,
            "squares" of squared importance (Molchanov et al., CVPR 2019, equation 8); "momentum" is an exponential
            moving average of absolute importance, "latest" takes a single step.
        regrowth: importance of masked channels: "absolute" counts its absolute value, "signed" only the part by which
            the return of the channel would lower the loss.
        keep_bonus: factor of the scores of unmasked channels.
        masked_decay: weight decay of masked weights, in addition to the optimizer's.
    """

    average: Average = "average"
    regrowth: Regrowth = "absolute"
    keep_bonus: float = 1.0
    masked_decay: float = 0.0


class MaskUpdateHook(Hook):
    """Chooses masks while `fit` trains; run state.

    Importance is computed between the backward pass and the optimizer's step: from unscaled gradients, reduced over
    processes, before any decay. A step with gradients that are not finite does not count; if masks were due after it,
    they are chosen after the next step that counts. Humble et al., ECCV 2022.

    Args:
        masks: masks to update.
        job: job whose network is trained and whose budget the masks meet at the end.
        mask_schedule: steps at which masks are chosen, and the budget at each.
        importance: importance of the channels in one step.
        averaging: settings by which importance becomes scores.
        solver: function from values to sizes, for all choices except the last, which solves for true costs; None solves
            for true costs always.

    Raises:
        InfeasibleBudget: the groups cannot reach the budget.
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
        self.final, self.regrown, self.rounds = False, 0, 0
        self._sum = torch.zeros(masks.size)
        self._count = torch.zeros(())
        self._scores = torch.zeros(0, dtype=torch.float64)
        self._pending, self._due, self._hooked = False, False, False

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        if not self._hooked:
            with_gradients(state.optimizer, self._before_optimizer_step)
            self._hooked = True
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
            self.job.log(f"epoch {state.epoch + 1}", {**costs, "rounds": self.rounds, "regrown": self.regrown})

    def finish(self) -> None:
        """Choose the final masks, within the budget by true costs; a second call does nothing.

        Raises:
            ModelError: no step had finite gradients.
        """
        if self.final:
            return
        if not self._take_scores() and not len(self._scores):
            raise ModelError("no step had finite gradients, so that channels cannot be scored; lower the learning rate")
        tried: dict[str, torch.Tensor] = {}

        def solve(costs: Sequence[Cost]) -> Plan:
            mask = self._chosen(bind(self.job.budget, self.job.graph, costs), _true_cost)
            plan = self.plan(mask)
            tried[plan.digest()] = mask
            return plan

        self._set(tried[self.job.meet_budget(solve).digest()])
        self.final = True

    def sizes(self) -> dict[str, int]:
        """Return the number of unmasked channels of each group."""
        return {group.name: int(self.masks.mask[self.masks.part(group.name)].sum()) for group in self.masks.groups}

    def plan(self, mask: torch.Tensor) -> Plan:
        """Return the plan that cuts the masked channels; unpruned groups have no edit.

        Args:
            mask: channels that are kept, bool [channels].
        """
        edits: list[Edit] = []
        for group in self.masks.groups:
            part = mask[self.masks.part(group.name)]
            if group.kind == "branch" and not bool(part):
                edits.append(DropBranch(group.name))
            elif not bool(part.all()):
                edits.append(KeepChannels(group.name, tuple(part.nonzero().view(-1).tolist())))
        return Plan(tuple(edits), self.job.graph.fingerprint, self.job.graph.inputs)

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        tensors = {"kept": self.masks.mask, "sum": self._sum, "count": self._count, "scores": self._scores}
        numbers = {"final": self.final, "pending": self._pending, "regrown": self.regrown, "rounds": self.rounds}
        return {**tensors, **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self._sum, self._count, self._scores = state["sum"], state["count"], state["scores"].cpu()
        self.final, self._pending = bool(state["final"]), bool(state["pending"])
        self.regrown, self.rounds = int(state["regrown"]), int(state["rounds"])
        self.masks.set(state["kept"].cpu())

    def _before_optimizer_step(self) -> None:
        if self.final:
            return
        if self._due or self.averaging.average != "latest":
            self._accumulate()
        self.masks.add_masked_decay(self.averaging.masked_decay)

    @torch.no_grad()
    def _accumulate(self) -> None:
        """Add the importance of one step, without synchronising with the device."""
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
        mask = self.masks.mask.to(figures.device, non_blocking=True)
        return torch.where(mask, figures.abs(), figures.clamp(min=0))

    def _take_scores(self) -> bool:
        """Turn the accumulated importance into scores and reset it; returns False if there was none."""
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
        """Broadcast the first process's row, so that all processes choose the same masks; float64 on the CPU."""
        Processes.here().equalise_([row])
        return row.cpu().double()

    def _chosen(self, limits: Limits, solver: Solver) -> torch.Tensor:
        """Choose the mask within some limits by the current scores, bool [channels]."""
        masks, before = self.masks, self.masks.mask
        scores = torch.where(before, self._scores * self.averaging.keep_bonus, self._scores)
        if masks.mode == "permanent":
            scores = torch.where(before, scores, 0.0)
        # a masked channel without value stays masked, even if the budget allows its return
        candidates = before | (scores > 0)
        sizes = solver(masks.groups, values_at(masks, scores), limits, self.sizes())
        mask = torch.zeros_like(before)
        for group in masks.groups:
            part = masks.part(group.name)
            most = int(candidates[part].sum())
            size = min(sizes[group.name], next(legal for legal in legal_sizes(group) if legal >= most))
            rank = torch.where(candidates[part], scores[part], -1.0)
            order = torch.argsort(rank, descending=True, stable=True)
            mask[part.start + order[:size]] = True
        return mask

    def _set(self, mask: torch.Tensor) -> None:
        self.regrown += int((mask & ~self.masks.mask).sum())
        self.rounds += 1
        self.masks.set(mask)


def train_and_cut(name: str, job: Job, hook: MaskUpdateHook, schedule: Schedule) -> Outcome:
    """Train a job's network with masks, then cut the masked channels.

    A network that is already within the budget is not changed.

    Args:
        name: name of the method, recorded in the plan.
        job: network, budget and data.
        hook: hook that chooses the masks.
        schedule: schedule of the training.
    """
    masks = hook.masks
    if hook.limits.excess({}) > 0:
        with masks.installed():
            job.fit(job.model, task_objective(job.task), schedule, hooks=[hook])
            hook.finish()
        masks.fold()
    plan = dc.replace(hook.plan(masks.mask), method=name)
    return Outcome(plan, apply(job.model, plan, job.graph))


def values_at(masks: Masks, scores: torch.Tensor) -> Values:
    """Return the value of keeping the best channels of each group, float64 [size + 1] by group.

    Dropping a branch also removes the groups inside it, but sizes do not express this: in a dropped branch, these
    groups cost nothing and still have their full value. The value of keeping the branch is raised by that value.

    Args:
        masks: masks of the groups.
        scores: score of each channel, float64 [channels].
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
