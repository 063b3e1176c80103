"""Masks that are updated while a network trains: accumulate importance, solve for sizes, set masks."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.method import Job, Outcome
from edakari.core.objective import task_objective
from edakari.core.plan import DropBranch, Edit, KeepChannels, Plan
from edakari.core.protocols import Cost, Hook, Schedule, StepState, Values
from edakari.core.space import Group, Sizes, legal_sizes
from edakari.cost import bind
from edakari.errors import ModelError
from edakari.methods.masking.masks import Masks
from edakari.methods.masking.mid_training import cut_masked
from edakari.methods.masking.step_scores import ScoreAveraging, StepScores
from edakari.solve import Knapsack, scarce, values_of
from edakari.solve.spend import reachable
from edakari.surgery import apply
from edakari.surgery.shrinking import shrink
from edakari.train.gradients import with_gradients

__all__ = [
    "Importance",
    "MaskSchedule",
    "MaskUpdateHook",
    "Solver",
    "train_and_cut",
    "values_at",
]

Importance = Callable[[Masks], torch.Tensor | None]
"""A function from masks to the first-order change of the loss without each channel, float [channels], or None if there
are no gradients."""

Solver = Callable[[Sequence[Group], Values, Limits, Sizes], Sizes]
"""A function from groups, values, limits and current sizes to new sizes."""


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


class MaskUpdateHook(Hook):
    """Chooses masks while `fit` trains; run state.

    Importance is computed between the backward pass and the optimizer's step: from unscaled gradients, reduced over
    processes, before any decay. A step with gradients that are not finite does not count; if masks were due after it,
    they are chosen after the next step that counts. Humble et al., ECCV 2022.

    The last choice rests on at least as many steps as an interval has, and is left out if nothing was scored since the
    choice before it and the masks meet the budget. Once the masks are final, the network is cut at the end of the
    epoch. If it cannot be cut in place, it trains with masks to the end.

    Args:
        masks: masks to update.
        job: job whose network is trained and whose budget the masks meet at the end.
        mask_schedule: steps at which masks are chosen, and the budget at each.
        importance: importance of the channels in one step.
        averaging: settings by which importance becomes scores; None is the default ones.
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
        averaging: ScoreAveraging | None = None,
        solver: Solver | None = None,
    ) -> None:
        self.masks, self.job, self.mask_schedule, self.importance = masks, job, mask_schedule, importance
        self.averaging, self.solver = averaging or ScoreAveraging(), solver or _true_cost
        self.limits = bind(job.budget, job.graph, job.costs)
        reachable(masks.groups, {group.name: np.zeros(group.size + 1) for group in masks.groups}, self.limits)
        self.final, self.cut, self.regrown, self.rounds = False, False, 0, 0
        self.scores = StepScores(self.averaging, masks.size)
        self._logged = (0, 0)
        self._pending, self._due, self._hooked, self._step = False, False, False, 0
        self._stays_whole = False

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        if not self._hooked:
            with_gradients(state.optimizer, self._before_optimizer_step)
            self._hooked = True
        self._step = state.step
        if not self.final and self.mask_schedule.over(state.step, state.epoch):
            self.finish()
        self._due = not self.final and (self._pending or self.mask_schedule.due(state.step + 1, state.epoch))

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        if not self._due:
            return
        scores = self.scores.take(self.masks.mask)
        self._pending = scores is None
        if scores is not None:
            terms = [(cost, cost.total({}), limit) for cost, limit in self.limits.terms]
            now = [(cost, self.mask_schedule.limit(dense, end, state.step, state.epoch)) for cost, dense, end in terms]
            self._set(self._chosen(scores, Limits(tuple(now)), self.solver))

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        if not self.final and self.mask_schedule.over(self._step + 1, state.epoch + 1):
            self.finish()
        elif not self.final and self.rounds:
            self._log(f"epoch {state.epoch + 1}")
        if self.final and not (self.cut or self._stays_whole):
            self._cut(state)

    def finish(self) -> None:
        """Choose the final masks, within the budget by true costs; a second call does nothing.

        Raises:
            ModelError: no step had finite gradients.
        """
        if self.final:
            return
        scores, fresh = self.scores.final(self.masks.mask)
        if scores is None:
            raise ModelError("no step had finite gradients, so that channels cannot be scored; lower the learning rate")
        tried: dict[str, torch.Tensor] = {}

        def solve(costs: Sequence[Cost]) -> Plan:
            limits = bind(self.job.budget, self.job.graph, costs)
            stays = not fresh and limits.excess(self.sizes()) <= 0
            mask = self.masks.mask if stays else self._chosen(scores, limits, _true_cost)
            plan = self.plan(mask)
            tried[plan.digest()] = mask
            return plan

        mask = tried[self.job.meet_budget(solve).digest()]
        if fresh or not torch.equal(mask, self.masks.mask):
            self._set(mask)
        self.final = True
        self._log("final masks")

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
        flags = {"final": self.final, "cut": self.cut, "pending": self._pending}
        counts = {"regrown": self.regrown, "rounds": self.rounds, "logged": list(self._logged)}
        return {"kept": self.masks.mask, "scores": self.scores.state_dict(), **flags, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self.scores.load_state_dict(state["scores"])
        self.final, self.cut, self._pending = bool(state["final"]), bool(state["cut"]), bool(state["pending"])
        self.regrown, self.rounds = int(state["regrown"]), int(state["rounds"])
        self._logged = (int(state["logged"][0]), int(state["logged"][1]))
        self.masks.set(state["kept"].cpu())

    def reshape(self, model: nn.Module) -> None:
        """See `Hook`."""
        if self.cut:
            self.masks.lift()
            shrink(model, self.plan(self.masks.mask), graph=self.job.graph)

    def _before_optimizer_step(self) -> None:
        if self.final:
            return
        figures = self.importance(self.masks)
        if figures is not None:
            self.scores.add(figures, self.masks.mask)
        self.masks.add_masked_decay(self.averaging.masked_decay)

    def _cut(self, state: StepState) -> None:
        plan = self.plan(self.masks.mask)
        fault = cut_masked(self.masks, plan, state) if plan.edits else None
        self.cut = fault is None and bool(plan.edits)
        self._stays_whole = not self.cut
        if fault is not None:
            self.job.log(f"the network trains with masks to the end, as it cannot be cut before: {fault}", {})

    def _chosen(self, scores: torch.Tensor, limits: Limits, solver: Solver) -> torch.Tensor:
        """Choose the mask within some limits by scores, float64 [channels]; bool [channels]."""
        masks, before = self.masks, self.masks.mask
        scores = self.averaging.comparable(scores, masks)
        scores = torch.where(before, scores * self.averaging.keep_bonus, scores)
        if masks.mode == "permanent":
            scores = torch.where(before, scores, 0.0)
        # a masked channel without value stays masked, even if the budget allows its return
        candidates = before | (scores > 0)
        sizes = solver(masks.groups, values_at(masks, scores, self.averaging.scarcity), limits, self.sizes())
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

    def _log(self, stage: str) -> None:
        """Log the costs, and how many channels came back per choice since the last entry."""
        sizes, (rounds, regrown) = self.sizes(), self._logged
        costs = {cost.name: cost.total(sizes) for cost, _ in self.limits.terms}
        came = (self.regrown - regrown) / max(1, self.rounds - rounds)
        figures = {"rounds": self.rounds, "regrown": self.regrown, "regrown_per_choice": came}
        self.job.log(stage, {**costs, **figures})
        self._logged = (self.rounds, self.regrown)


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
    plan = dc.replace(hook.plan(masks.mask), method=name)
    if hook.cut:
        return Outcome(plan, job.model)
    masks.fold()
    return Outcome(plan, apply(job.model, plan, job.graph))


def values_at(masks: Masks, scores: torch.Tensor, scarcity: float = 0.0) -> Values:
    """Return the value of keeping the best channels of each group, float64 [size + 1] by group.

    Dropping a branch also removes the groups inside it, but sizes do not express this: in a dropped branch, these
    groups cost nothing and still have their full value. The value of keeping the branch is raised by that value.

    Args:
        masks: masks of the groups.
        scores: score of each channel, float64 [channels].
        scarcity: power by which the value of channels rises the fewer of their group are kept.
    """
    summed = values_of({group.name: scores[masks.part(group.name)] for group in masks.groups})
    values = dict(scarce(summed, scarcity))
    for branch in masks.branches:
        own = {*branch.parameters}
        for group in masks.groups:
            members = masks.graph.members(group.name)
            if members and all(member.tensor in own for member in members):
                values[branch.name] = values[branch.name] + np.array([0.0, values[group.name][-1]])
    return values


def _true_cost(groups: Sequence[Group], values: Values, limits: Limits, sizes: Sizes) -> Sizes:
    return Knapsack().allocate(groups, values, limits)
