"""Score, allocate, cut: in one step, or in several with training between them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from edakari.core.budget import Budget, Term
from edakari.core.graph import Graph
from edakari.core.method import Job, Outcome, Solve, allocate_once
from edakari.core.plan import Plan
from edakari.core.protocols import Allocator, Batch, Cost, Criterion, Schedule
from edakari.core.space import Group, Scores, Sizes
from edakari.cost import dense
from edakari.cost.cost_after import CostAfter
from edakari.graph import trace
from edakari.methods.allocation import AllocatorName, allocate, allocator_named
from edakari.surgery import apply

__all__ = ["Stepwise", "carried", "prune_by"]


class Stepwise(Protocol):
    """The settings that all methods of score, allocate, cut share."""

    @property
    def iterations(self) -> int:
        """Cuts on the way to the budget; 1 is one-shot."""

    @property
    def recovery_epochs(self) -> int:
        """Epochs of training after each cut but the last, which the fine-tuning follows."""

    @property
    def recovery_lr(self) -> float:
        """Peak learning rate of that training."""

    @property
    def allocator(self) -> AllocatorName:
        """Who spends the budget on groups."""


def prune_by(name: str, criterion: Criterion, settings: Stepwise, job: Job) -> Outcome:
    """Prune by a criterion.

    With k iterations, iteration i cuts to dense·(limit/dense)^(i/k), the same share each time; the cut network is
    traced and scored again, and the plans are joined. Where a cost is measured, the last iteration meets the budget by
    measurement.

    Args:
        name: of the method, noted in the plan.
        criterion: scores the groups of the network as it is at an iteration.
        settings: how many iterations, what lies between them, who allocates.
        job: network, budget and data.

    Raises:
        InfeasibleBudget: the budget lies below what the groups can reach.
    """
    allocator = allocator_named(settings.allocator)
    whole = _costs(job.graph, job.costs, {})
    model, graph, plan = job.model, job.graph, Plan((), job.graph.fingerprint, job.graph.inputs, name)
    for iteration in range(1, settings.iterations + 1):
        if iteration > 1 and settings.recovery_epochs:
            job.fit(
                model,
                lambda network, batch: job.task.loss(job.task.outputs(network, batch), batch),
                Schedule(epochs=settings.recovery_epochs, lr=settings.recovery_lr),
            )
        scores = criterion.score(model, graph, _Lazily(job), job.task)
        budget = _towards(job.budget, whole, iteration / settings.iterations)
        allocate_within = job.meet_budget if iteration == settings.iterations else allocate_once
        cut = allocate_within(_solver(graph, scores, budget, allocator, job.groups, plan.sizes()), job.costs, plan)
        plan = plan.then(dc.replace(cut, method=name))
        model = apply(model, cut, graph)
        graph = trace(model, job.task.example())
        job.log(f"iteration {iteration}", _costs(graph, job.costs, plan.sizes()))
    return Outcome(plan, model)


@dc.dataclass(frozen=True)
class _Lazily:
    """The calibration split, which is opened only by a criterion that reads it."""

    job: Job

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.job.task.batches("calibration"))


def _solver(
    graph: Graph, scores: Scores, budget: Budget, allocator: Allocator, groups: Sequence[Group], start: Sizes
) -> Solve:
    """What allocates for a network that a plan to sizes `start` has led to, given costs of the network before it."""

    def solve(costs: Sequence[Cost]) -> Plan:
        left = [CostAfter(cost, start) for cost in costs]
        return allocate(graph, scores, budget, allocator, carried(graph, groups), left)

    return solve


def _costs(graph: Graph, measured: Sequence[Cost], sizes: Sizes) -> dict[str, float]:
    """Counted costs of a network, and measured ones of the first network at sizes."""
    return {**dense(graph), **{cost.name: cost.total(sizes) for cost in measured}}


def _towards(budget: Budget, whole: Mapping[str, float], part: float) -> Budget:
    """The budget a part of the way from the dense network, in figures."""
    terms = []
    for term in budget.absolute(whole).terms:
        cost = max(whole[term.cost], term.limit)
        terms.append(Term(term.cost, cost * (term.limit / cost) ** part if part < 1 else term.limit, False))
    return Budget(tuple(terms))


def carried(graph: Graph, groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups of a graph that may be cut, with the legal sizes that they had at first."""
    first = {group.name: group for group in groups}
    return tuple(
        dc.replace(group, step=first[group.name].step, least=min(first[group.name].least, group.size))
        for group in graph.groups
        if group.name in first
    )
