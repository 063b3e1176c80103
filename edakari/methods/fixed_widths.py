"""Groups whose sizes their user has fixed: cut first, so that any method spends the budget on the others."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

from edakari.core.method import Job, Method, Outcome, Solve
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.core.space import Sizes
from edakari.cost.cost_after import CostAfter
from edakari.criteria import Magnitude
from edakari.errors import InfeasibleBudget
from edakari.graph import trace
from edakari.methods.allocation import fixed_note
from edakari.methods.iterative import carried
from edakari.solve import keep_best
from edakari.surgery import apply

__all__ = ["prune_beside"]


def prune_beside(fixed: Sizes, method: Method, job: Job) -> Outcome:
    """What a method makes of a network in which some groups have a fixed size.

    These groups are cut to their sizes first, of which the channels of largest weights stay, and the method gets what
    that leaves.

    Args:
        fixed: size of each of these groups.
        method: prunes the others.
        job: of the network as it is.

    Returns:
        The method's outcome; its plan is for the network of the job.

    Raises:
        InfeasibleBudget: the other groups cannot reach the budget.
    """
    if not fixed:
        return method.prune(job)
    scores = Magnitude().score(job.model, job.graph)
    first = Plan(keep_best(scores, fixed), job.graph.fingerprint, job.graph.inputs)
    small = apply(job.model, first, job.graph)
    graph = trace(small, job.task.example())

    def loop(solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
        joined = first if before is None else first.then(before)
        return job.loop(lambda given: solve(_after(given, fixed)), job.costs, joined)

    left = dc.replace(
        job,
        model=small,
        graph=graph,
        groups=carried(graph, [group for group in job.groups if group.name not in fixed]),
        costs=_after(job.costs, fixed),
        loop=loop,
    )
    try:
        outcome = method.prune(left)
    except InfeasibleBudget as error:
        raise InfeasibleBudget(f"{error} {fixed_note(fixed)}", error.least) from None
    return dc.replace(outcome, plan=first.then(outcome.plan))


def _after(costs: Sequence[Cost], fixed: Sizes) -> list[Cost]:
    return [CostAfter(cost, fixed) for cost in costs]
