"""Widths and tokens under one budget: tokens give a fraction of the saving, and widths the rest."""

from __future__ import annotations

import bisect
import dataclasses as dc
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.method import Job, Outcome
from edakari.core.modes import eval_mode
from edakari.core.objective import task_objective
from edakari.core.plan import DropBranch, KeepTokens, Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Allocator, Batch, Cost, Schedule
from edakari.core.settings import Count, Fraction, LearningRate, Whole, settings
from edakari.core.space import Group, Scores, Sizes
from edakari.core.stability import experimental
from edakari.cost import bind, dense
from edakari.cost.cost_after import CostAfter
from edakari.errors import DataError, EdakariError, InfeasibleBudget, SettingsError
from edakari.graph import example_for, shadow_of
from edakari.methods.allocation import allocate
from edakari.surgery import apply
from edakari.surgery.tokens import TokenSites, attach, token_sites
from edakari.surgery.tokens.design import Counts, TokenDesign, geometric, linear
from edakari.surgery.tokens.design import Schedule as TokenSchedule
from edakari.surgery.tokens.graphs import graph_with_selectors
from edakari.surgery.tokens.package_token import Packages
from edakari.surgery.tokens.reduced import kept_at, reduced_graph, require_one_stage

__all__ = ["TokenSharing", "check_shared", "prune_shared"]

Choice = tuple[float, tuple[str, ...]]
"""A fraction of the saving that tokens give, and the branches that are dropped."""

STEPS = 400
"""Number of strengths of a schedule of tokens."""

Chosen = Literal["evit", "tome", "dynamicvit", "random"]
DESIGNS: Mapping[str, tuple[Mapping[str, bool | int | float | str], Packages, TokenSchedule]] = {
    "evit": ({"package": "append", "package_norm": "sum"}, "each", geometric),
    "tome": ({}, "none", linear),
    "dynamicvit": ({"start": "unlike"}, "none", geometric),
    "random": ({"package": "none"}, "none", geometric),
}
"""Settings, packages and schedule of each kind of selector; all of them choose before any training."""


@settings
class TokenSharing:
    """Pruning of tokens under the same budget as widths.

    Each fraction of the saving gives numbers of tokens. The widths are then cut to the rest of the budget, at their
    costs with so many tokens. The fraction whose network has the lowest loss on calibration batches is taken.

    Args:
        selector: what chooses tokens: "evit", "tome" and "dynamicvit" as in the methods of these names, "random" as in
            `random_tokens`; "tome" merges them.
        blocks: indices, from 0, or from 1 for "evit" and "tome", of the blocks in front of which tokens are pruned;
            empty is after each quarter, and all blocks for "tome".
        fractions: fractions of the saving that tokens may give: 0 is widths alone, 1 is tokens alone. A single one is
            taken without a comparison.
        max_batches: number of calibration batches of which the loss is taken.
        branches: numbers of residual branches, such as an attention or an MLP, that may be dropped whole; each is tried
            with each fraction. Those go first without which the loss is lowest.
        trial_epochs: number of epochs that each network is trained before its loss is taken.
        trial_lr: peak learning rate of this training.
    """

    selector: Chosen = "evit"
    blocks: tuple[Whole, ...] = ()
    fractions: tuple[Fraction, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    branches: tuple[Whole, ...] = (0,)
    max_batches: Count = 8
    trial_epochs: Whole = 0
    trial_lr: LearningRate = 0.001

    def __post_init__(self) -> None:
        for name in ("fractions", "branches"):
            if not getattr(self, name):
                raise SettingsError(f"TokenSharing: {name} is empty; name one or more numbers, or leave it out")

    @property
    def compares(self) -> bool:
        """Whether networks are compared by their loss."""
        return len(set(self.fractions)) > 1 or self.drops

    @property
    def drops(self) -> bool:
        """Whether residual branches may be dropped."""
        return max(self.branches) > 0

    def design(self, sites: TokenSites, seed: int = 0) -> TokenDesign:
        """Return the selectors and their blocks.

        Args:
            sites: blocks of the network in front of which tokens can be pruned.
            seed: seed of a choice at random.
        """
        own, packages, schedule = DESIGNS[self.selector]
        usual = tuple(range(1, len(sites.blocks))) if self.selector == "tome" else sites.quarters()
        return TokenDesign(
            sites=sites,
            selector=self.selector,
            blocks=self.blocks or usual,
            settings={**own, "seed": seed} if self.selector == "random" else own,
            packages=packages,
            schedule=schedule,
        )


def check_shared(job: Job, sharing: TokenSharing) -> TokenDesign:
    """Check that a network can have one budget for widths and tokens, and return the selectors.

    Args:
        job: network and budget.
        sharing: settings of the tokens.

    Raises:
        ModelError: the network has no tokens, or several stages of them.
        PlanError: the blocks cannot have the selectors.
    """
    sites = token_sites(job.model, example_for(job.model, job.graph.inputs))
    require_one_stage(sites)
    design = sharing.design(sites, job.seed)
    design.check()
    return design


@experimental("token pruning", "its settings, the form of its plans and the networks that it saves")
def prune_shared(name: str, scores: Scores, allocator: Allocator, sharing: TokenSharing, job: Job) -> Outcome:
    """Prune widths and tokens to one budget.

    Args:
        name: name of the method, recorded in the plan.
        scores: score of each channel, float [size], by group.
        allocator: allocator that spends what tokens leave of the budget.
        sharing: settings of the tokens.
        job: network, budget and data.

    Raises:
        InfeasibleBudget: no fraction reaches the budget.
        DataError: fractions are to be compared, and the task has no data.
    """
    split = _Split(job, check_shared(job, sharing), scores, allocator)
    fraction, dropped = _best(split, sharing) if sharing.compares else (sharing.fractions[0], ())
    plan = job.meet_budget(functools.partial(split.solve, fraction, dropped))
    counts = {each.group: each.count for each in plan.tokens()}
    job.log("tokens and widths", {"fraction by tokens": fraction, "dropped branches": len(dropped), **counts})
    return Outcome(dc.replace(plan, method=name), apply(job.model, plan, job.graph))


def _best(split: _Split, sharing: TokenSharing) -> Choice:
    """The fraction and the dropped branches whose network has the lowest loss; of equal ones, the first."""
    job, losses, last = split.job, dict[Choice, float](), None
    batches = list(itertools.islice(Processes.here().own(job.task.batches("calibration")), sharing.max_batches))
    if not batches:
        raise DataError(
            "tokens: fractions are compared by the loss on calibration data, but there is none; name one fraction alone"
        )
    ranked = split.droppable(batches) if sharing.drops else []
    for count, fraction in itertools.product(dict.fromkeys(sharing.branches), dict.fromkeys(sharing.fractions)):
        if count > len(ranked):
            raise SettingsError(f"tokens.branches: {count} is more than the {len(ranked)} branches that can be dropped")
        choice = fraction, tuple(ranked[:count])
        try:
            plan = split.solve(*choice, job.costs)
        except InfeasibleBudget as error:
            last = error
            continue
        model = apply(job.model, plan, job.graph)
        if sharing.trial_epochs:
            schedule = Schedule(epochs=sharing.trial_epochs, lr=sharing.trial_lr)
            job.fit(model, task_objective(job.task), schedule)
        losses[choice] = _loss(model, batches, job)
        without = f", {count} branches dropped" if count else ""
        job.log(f"{fraction:.0%} of the saving by tokens{without}", {"loss": losses[choice]})
    if not losses:
        assert last is not None
        raise last
    return min(losses, key=lambda choice: losses[choice])


@torch.no_grad()
def _loss(model: nn.Module, batches: Sequence[Batch], job: Job) -> float:
    objective = task_objective(job.task)
    with eval_mode(model):
        losses = [float(sum(float(term) for term in objective(model, batch).values())) for batch in batches]
    return Processes.here().mean(losses)


@dc.dataclass(frozen=True)
class _Raised:
    """A cost with a constant added, which selectors cost; fulfils `Cost`."""

    cost: Cost
    constant: float

    @property
    def name(self) -> str:
        return self.cost.name

    @property
    def unit(self) -> str:
        return self.cost.unit

    def total(self, sizes: Sizes) -> float:
        return self.cost.total(sizes) + self.constant

    def curve(self, group: Group, sizes: Sizes) -> npt.NDArray[np.float64]:
        return self.cost.curve(group, sizes) + self.constant


@dc.dataclass(frozen=True)
class _Split:
    """Plans of a job by the fraction of the saving that tokens give."""

    job: Job
    design: TokenDesign
    scores: Scores
    allocator: Allocator

    def droppable(self, batches: Sequence[Batch]) -> list[str]:
        """Return the residual branches that can go beside selectors, by the loss of the network without each alone."""
        job, losses = self.job, {}
        selectors = self.design.edits(self.design.counts(0.5))
        for branch in job.graph.branches:
            alone = Plan((DropBranch(branch.name),), job.graph.fingerprint, job.graph.inputs)
            try:
                apply(job.model, dc.replace(alone, edits=(*alone.edits, *selectors)), job.graph)
            except EdakariError:
                continue  # a selector needs this attention
            losses[branch.name] = _loss(apply(job.model, alone, job.graph), batches, job)
        return sorted(losses, key=lambda name: losses[name])

    def solve(self, fraction: float, dropped: Sequence[str], costs: Sequence[Cost]) -> Plan:
        """Return the plan of a choice at measured costs; widths are cut to what the rest leaves of the budget."""
        job, gone = self.job, dict.fromkeys(dropped, 0)
        edits = self.design.edits(self._counts(fraction, gone, costs)) if fraction else ()
        terms = self._terms(edits, gone, costs)
        plan = allocate(job.graph, self.scores, job.budget, self.allocator, job.groups, terms)
        return dc.replace(plan, edits=(*plan.edits, *edits, *map(DropBranch, dropped)))

    def _counts(self, fraction: float, gone: Sizes, costs: Sequence[Cost]) -> Counts:
        """Counts of the smallest strength by which tokens save their fraction of what the tightest term asks for."""
        every = (self.design.counts(step / STEPS) for step in range(STEPS))
        choices = list(dict.fromkeys(counts for counts in every if min(counts) >= 1))
        name, limit = self._tightest(choices[-1], gone, costs)
        whole = self._value(name, choices[0], gone, costs)
        wanted = whole - fraction * (whole - limit)
        index = bisect.bisect_left(choices, -wanted, key=lambda counts: -self._value(name, counts, gone, costs))
        if index == len(choices):
            least = self._value(name, choices[-1], gone, costs)
            raise InfeasibleBudget(
                f"tokens cannot give {fraction:.0%} of the saving: the fewest tokens reach {name} {least:.6g}, and "
                f"{wanted:.6g} is asked for; lower tokens.fractions, prune earlier blocks, or raise the budget",
                {name: least},
            )
        return choices[index]

    def _tightest(self, fewest: Counts, gone: Sizes, costs: Sequence[Cost]) -> tuple[str, float]:
        """The cost that the budget limits most among those that fall with tokens, and its limit."""
        found, least = {}, {}
        for cost, limit in self._limits(gone, costs):
            least[cost.name] = whole = cost.total({})
            if self._value(cost.name, fewest, gone, costs) < whole:
                found[limit / whole] = (cost.name, limit)
        if not found:
            raise InfeasibleBudget(
                f"fewer tokens save nothing of what {self.job.budget!s} limits: choosing them costs as much. Put 0 "
                "among tokens.fractions for widths alone, or budget macs",
                least,
            )
        return found[min(found)]

    def _value(self, name: str, counts: Counts, gone: Sizes, costs: Sequence[Cost]) -> float:
        sizes = {**gone, **{edit.group: edit.count for edit in self.design.edits(counts)}}
        return next(cost.total({}) for cost, _ in self._limits(sizes, costs) if cost.name == name)

    def _limits(self, sizes: Sizes, costs: Sequence[Cost]) -> Sequence[tuple[Cost, float]]:
        """Limited costs of widths at some numbers of tokens and branches; without selectors if they are counted."""
        sites = self.design.sites
        graph = reduced_graph(self.job.graph, sites, kept_at(sites, sizes, self.design.packages))
        return [(CostAfter(cost, sizes), limit) for cost, limit in bind(self.job.budget, graph, costs).terms]

    def _terms(self, edits: Sequence[KeepTokens], gone: Sizes, costs: Sequence[Cost]) -> list[Cost]:
        """The costs of widths with these tokens and without dropped branches, selectors included."""
        tokens = {edit.group: edit.count for edit in edits}
        terms = [cost for cost, _ in self._limits({**tokens, **gone}, costs)]
        if not edits:
            return terms
        exact, measured = dense(_traced(self.job, edits), self.job.budget), {cost.name for cost in costs}
        bare = {cost.name: cost.total({}) for cost, _ in self._limits(tokens, costs)}
        return [cost if cost.name in measured else _Raised(cost, exact[cost.name] - bare[cost.name]) for cost in terms]


def _traced(job: Job, edits: Sequence[KeepTokens]) -> Graph:
    """Graph of the job's network with selectors."""
    small = shadow_of(job.model, "meta")
    example = example_for(small, job.graph.inputs)
    return graph_with_selectors(attach(small, edits, example), example)
