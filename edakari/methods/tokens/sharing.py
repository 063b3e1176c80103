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
from edakari.core.plan import KeepTokens, Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Allocator, Batch, Cost, Schedule
from edakari.core.settings import Count, Fraction, LearningRate, Whole, settings
from edakari.core.space import Group, Scores, Sizes
from edakari.core.stability import experimental
from edakari.cost import bind, dense
from edakari.cost.cost_after import CostAfter
from edakari.errors import DataError, InfeasibleBudget, SettingsError
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
        trial_epochs: number of epochs that each network is trained before its loss is taken.
        trial_lr: peak learning rate of this training.
    """

    selector: Chosen = "evit"
    blocks: tuple[Whole, ...] = ()
    fractions: tuple[Fraction, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    max_batches: Count = 8
    trial_epochs: Whole = 0
    trial_lr: LearningRate = 0.001

    def __post_init__(self) -> None:
        if not self.fractions:
            raise SettingsError("TokenSharing: fractions is empty; name one or more fractions from 0 to 1")

    @property
    def compares(self) -> bool:
        """Whether networks are compared by their loss."""
        return len(set(self.fractions)) > 1

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
    fraction = _best(split, sharing) if sharing.compares else sharing.fractions[0]
    plan = job.meet_budget(functools.partial(split.solve, fraction))
    job.log("tokens and widths", {"fraction by tokens": fraction, **{each.group: each.count for each in plan.tokens()}})
    return Outcome(dc.replace(plan, method=name), apply(job.model, plan, job.graph))


def _best(split: _Split, sharing: TokenSharing) -> float:
    """The fraction whose network has the lowest loss; of equal ones, the first."""
    job, losses, last = split.job, dict[float, float](), None
    batches = list(itertools.islice(Processes.here().own(job.task.batches("calibration")), sharing.max_batches))
    if not batches:
        raise DataError(
            "tokens: fractions are compared by the loss on calibration data, but there is none; name one fraction alone"
        )
    for fraction in dict.fromkeys(sharing.fractions):
        try:
            plan = split.solve(fraction, job.costs)
        except InfeasibleBudget as error:
            last = error
            continue
        model = apply(job.model, plan, job.graph)
        if sharing.trial_epochs:
            schedule = Schedule(epochs=sharing.trial_epochs, lr=sharing.trial_lr)
            job.fit(model, task_objective(job.task), schedule)
        losses[fraction] = _loss(model, batches, job)
        job.log(f"{fraction:.0%} of the saving by tokens", {"loss": losses[fraction]})
    if not losses:
        assert last is not None
        raise last
    return min(losses, key=lambda fraction: losses[fraction])


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

    def solve(self, fraction: float, costs: Sequence[Cost]) -> Plan:
        """Return the plan of a fraction at measured costs; widths are cut to what tokens leave of the budget."""
        job = self.job
        edits = self.design.edits(self._counts(fraction, costs)) if fraction else ()
        terms = self._terms(edits, costs)
        plan = allocate(job.graph, self.scores, job.budget, self.allocator, job.groups, terms)
        return dc.replace(plan, edits=(*plan.edits, *edits))

    def _counts(self, fraction: float, costs: Sequence[Cost]) -> Counts:
        """Counts of the smallest strength by which tokens save their fraction of what the tightest term asks for."""
        every = (self.design.counts(step / STEPS) for step in range(STEPS))
        choices = list(dict.fromkeys(counts for counts in every if min(counts) >= 1))
        name, limit = self._tightest(choices[-1], costs)
        whole = self._value(name, choices[0], costs)
        wanted = whole - fraction * (whole - limit)
        index = bisect.bisect_left(choices, -wanted, key=lambda counts: -self._value(name, counts, costs))
        if index == len(choices):
            least = self._value(name, choices[-1], costs)
            raise InfeasibleBudget(
                f"tokens cannot give {fraction:.0%} of the saving: the fewest tokens reach {name} {least:.6g}, and "
                f"{wanted:.6g} is asked for; lower tokens.fractions, prune earlier blocks, or raise the budget",
                {name: least},
            )
        return choices[index]

    def _tightest(self, fewest: Counts, costs: Sequence[Cost]) -> tuple[str, float]:
        """The cost that the budget limits most among those that fall with tokens, and its limit."""
        found, least = {}, {}
        for cost, limit in self._limits({}, costs):
            least[cost.name] = whole = cost.total({})
            if self._value(cost.name, fewest, costs) < whole:
                found[limit / whole] = (cost.name, limit)
        if not found:
            raise InfeasibleBudget(
                f"fewer tokens save nothing of what {self.job.budget!s} limits: choosing them costs as much. Put 0 "
                "among tokens.fractions for widths alone, or budget macs",
                least,
            )
        return found[min(found)]

    def _value(self, name: str, counts: Counts, costs: Sequence[Cost]) -> float:
        tokens = {edit.group: edit.count for edit in self.design.edits(counts)}
        return next(cost.total({}) for cost, _ in self._limits(tokens, costs) if cost.name == name)

    def _limits(self, tokens: Sizes, costs: Sequence[Cost]) -> Sequence[tuple[Cost, float]]:
        """Costs of widths at some numbers of tokens, without selectors if they are counted, and their limits."""
        sites = self.design.sites
        graph = reduced_graph(self.job.graph, sites, kept_at(sites, tokens, self.design.packages))
        return bind(self.job.budget, graph, [CostAfter(cost, tokens) for cost in costs]).terms

    def _terms(self, edits: Sequence[KeepTokens], costs: Sequence[Cost]) -> list[Cost]:
        """The costs of widths with these tokens, selectors included."""
        tokens = {edit.group: edit.count for edit in edits}
        measured = {cost.name for cost in costs}
        exact = dense(_traced(self.job, edits), self.job.budget) if edits else {}
        return [
            cost if cost.name in measured or not edits else _Raised(cost, exact[cost.name] - cost.total({}))
            for cost, _ in self._limits(tokens, costs)
        ]


def _traced(job: Job, edits: Sequence[KeepTokens]) -> Graph:
    """Graph of the job's network with selectors."""
    small = shadow_of(job.model, "meta")
    example = example_for(small, job.graph.inputs)
    return graph_with_selectors(attach(small, edits, example), example)
