"""Score, allocate, cut: in one step, or in several with training between them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence

from edakari.core.budget import Budget, Term
from edakari.core.graph import Graph
from edakari.core.method import Job, Outcome, Solve, allocate_once
from edakari.core.objective import task_objective
from edakari.core.plan import Plan
from edakari.core.protocols import Allocator, Batch, Cost, Criterion, Schedule
from edakari.core.space import Group, Scores, Sizes
from edakari.cost import dense
from edakari.cost.cost_after import CostAfter
from edakari.graph import fixed_graph, trace
from edakari.methods.allocation import allocate
from edakari.surgery import apply

__all__ = ["Iterations", "carried", "prune_by"]


@dc.dataclass(frozen=True)
class Iterations:
    """How often is cut, and what lies between two cuts.

    Args:
        count: cuts on the way to the budget; 1 cuts once.
        recovery_epochs: epochs of training after each cut but the last, which the fine-tuning follows.
        recovery_lr: peak learning rate of that training.
    """

    count: int = 1
    recovery_epochs: int = 0
    recovery_lr: float = 0.01


def prune_by(name: str, criterion: Criterion, allocator: Allocator, iterations: Iterations, job: Job) -> Outcome:
    """Prune by a criterion.

    With k iterations, iteration i cuts to dense·(limit/dense)^(i/k), the same share each time; the cut network is
    traced and scored again, and the plans are joined. Where a cost is measured, the last iteration meets the budget by
    measurement.

    Args:
        name: of the method, noted in the plan.
        criterion: scores the groups of the network as it is at an iteration.
        allocator: divides the budget among the groups.
        iterations: how many, and what lies between them.
        job: network, budget and data.

    Raises:
        InfeasibleBudget: the budget lies below what the groups can reach.
    """
    whole = _costs(job, job.graph, {})
    model, graph, plan = job.model, job.graph, Plan((), job.graph.fingerprint, job.graph.inputs, name)
    for iteration in range(1, iterations.count + 1):
        if iteration > 1 and iterations.recovery_epochs:
            job.fit(
                model,
                task_objective(job.task),
                Schedule(epochs=iterations.recovery_epochs, lr=iterations.recovery_lr),
            )
        scores = criterion.score(model, graph, _Lazily(job), job.task)
        budget = _towards(job.budget, whole, iteration / iterations.count)
        allocate_within = job.loop if iteration == iterations.count else allocate_once
        cut = allocate_within(_solver(graph, scores, budget, allocator, job.groups, plan.sizes()), job.costs, plan)
        plan = plan.then(dc.replace(cut, method=name))
        model = apply(model, cut, graph)
        # of the last one, only the costs are asked
        graph = (trace if iteration < iterations.count else fixed_graph)(model, job.task.example())
        job.log(f"iteration {iteration}", _costs(job, graph, plan.sizes()))
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


def _costs(job: Job, graph: Graph, sizes: Sizes) -> dict[str, float]:
    """Counted costs of a network, and measured ones of the first network at sizes."""
    return {**dense(graph, job.budget), **{cost.name: cost.total(sizes) for cost in job.costs}}


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
