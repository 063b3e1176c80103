"""Scores, allocates and cuts, in one iteration or in several with training between them."""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edakari.core.budget import Budget, Term
from edakari.core.graph import Graph
from edakari.core.method import Job, Outcome, Solve, allocate_once
from edakari.core.objective import task_objective
from edakari.core.plan import Plan
from edakari.core.processes import divided
from edakari.core.protocols import Allocator, Batch, Cost, Criterion, Schedule
from edakari.core.space import Group, Scores, Sizes, legal_sizes
from edakari.cost import bind, counted
from edakari.cost.cost_after import CostAfter
from edakari.graph import trace
from edakari.methods.allocation import allocate
from edakari.solve.spend import require_within
from edakari.surgery import apply

__all__ = ["Iterations", "LazyCalibration", "carried", "prune_by"]


@dc.dataclass(frozen=True)
class Iterations:
    """Number of cuts, and the training between them.

    Args:
        count: number of cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of that training.
    """

    count: int = 1
    recovery_epochs: int = 0
    recovery_lr: float = 0.01


def prune_by(name: str, criterion: Criterion, allocator: Allocator, iterations: Iterations, job: Job) -> Outcome:
    """Prune the channels that a criterion scores lowest.

    With k iterations, iteration i cuts to dense·(limit/dense)^(i/k), that is by the same factor each time. Each cut
    network is traced and scored again, and the plans are composed. All costs are those of the unpruned network's
    graph at the sizes so far: a cut detector of two stages finds another number of regions, which its own graph
    counts. If the budget names a measured cost, the last iteration repeats its allocation until the measured
    network meets the budget.

    Args:
        name: name of the method, recorded in the plan.
        criterion: criterion that scores the channels of the current network.
        allocator: allocator that divides the budget among the groups.
        iterations: number of cuts, and the training between them.
        job: network, budget and data.

    Returns:
        The pruned network, and its plan for the job's network.

    Raises:
        InfeasibleBudget: the groups cannot reach the budget.
    """
    if iterations.count > 1:  # before anything trains
        smallest = {group.name: legal_sizes(group)[0] for group in job.groups}
        require_within(bind(job.budget, job.graph, job.costs), smallest, len(job.groups))
    dense_costs = _costs(job, {})
    model, graph, plan = job.model, job.graph, Plan((), job.graph.fingerprint, job.graph.inputs, name)
    for iteration in range(1, iterations.count + 1):
        if iteration > 1 and iterations.recovery_epochs:
            job.fit(
                model,
                task_objective(job.task),
                Schedule(epochs=iterations.recovery_epochs, lr=iterations.recovery_lr),
            )
        score = functools.partial(criterion.score, model, graph, LazyCalibration(job), job.task)
        scores = job.scoring(criterion, score) if iteration == 1 else score()
        budget = _towards(job.budget, dense_costs, iteration / iterations.count)
        allocate_within = job.loop if iteration == iterations.count else allocate_once
        cut = allocate_within(_solver(job, graph, scores, budget, allocator, plan.sizes()), job.costs, plan)
        plan = plan.then(dc.replace(cut, method=name), job.graph)
        model = apply(model, cut, graph)
        if iteration < iterations.count:
            graph = trace(model, job.task.example())
        job.log(f"iteration {iteration}", _costs(job, plan.sizes()))
    return Outcome(plan, model)


@dc.dataclass(frozen=True)
class LazyCalibration:
    """The calibration split, opened only if a criterion reads it.

    Args:
        job: job with the task.
    """

    job: Job

    @property
    def divided(self) -> bool:
        """See `edakari.core.processes.Processes.own`."""
        return divided(self.job.task.batches("calibration"))

    def __len__(self) -> int:
        return len(self.job.task.batches("calibration"))  # type: ignore[arg-type]  # that of a loader without fails

    def skip(self, count: int) -> Iterable[Batch]:
        """Return the batches without the first ones."""
        batches: Any = self.job.task.batches("calibration")
        return batches.skip(count) if hasattr(batches, "skip") else itertools.islice(batches, count, None)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.job.task.batches("calibration"))


def _solver(job: Job, graph: Graph, scores: Scores, budget: Budget, allocator: Allocator, start: Sizes) -> Solve:
    """Return the allocation for a network that was cut to sizes `start`, given measured costs of the unpruned one."""

    def solve(costs: Sequence[Cost]) -> Plan:
        after = [CostAfter(cost, start) for cost, _ in bind(budget, job.graph, costs).terms]
        return allocate(graph, scores, budget, allocator, carried(graph, job.groups), after)

    return solve


def _costs(job: Job, sizes: Sizes) -> dict[str, float]:
    """Counted and measured costs of the unpruned network at some sizes."""
    return {**counted(job.graph, sizes, job.budget), **{cost.name: cost.total(sizes) for cost in job.costs}}


def _towards(budget: Budget, dense_costs: Mapping[str, float], fraction: float) -> Budget:
    """Interpolate geometrically between the dense costs (fraction 0) and the budget (fraction 1), in absolute units."""
    terms = []
    for term in budget.absolute(dense_costs).terms:
        cost = max(dense_costs[term.cost], term.limit)
        terms.append(Term(term.cost, cost * (term.limit / cost) ** fraction if fraction < 1 else term.limit, False))
    return Budget(tuple(terms))


def carried(graph: Graph, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return the groups of a pruned graph that may still be cut, with the legal sizes of the original groups.

    Args:
        graph: graph of the pruned network.
        groups: groups of the original network that may be cut.
    """
    first = {group.name: group for group in groups}
    return tuple(
        dc.replace(group, step=first[group.name].step, least=min(first[group.name].least, group.size))
        for group in graph.groups
        if group.name in first
    )
