"""Groups of fixed size: they are cut first, so that any method can spend the budget on the others."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Iterator, Sequence

from edakari.core.method import Job, Method, Outcome, Solve
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Cost
from edakari.core.space import Sizes
from edakari.cost import bind
from edakari.cost.cost_after import CostAfter
from edakari.criteria import Magnitude
from edakari.errors import InfeasibleBudget
from edakari.graph import trace
from edakari.methods.allocation import fixed_note
from edakari.methods.iterative import carried
from edakari.solve import keep_best
from edakari.surgery import apply

__all__ = ["check_with_fixed", "prune_with_fixed"]


def prune_with_fixed(fixed: Sizes, method: Method, job: Job) -> Outcome:
    """Prune a network in which some groups have a fixed size.

    Cuts these groups to their sizes first, keeping the channels of largest weight magnitude. The method then prunes the
    smaller network.

    Args:
        fixed: size of each group that has a fixed one, by name.
        method: method that prunes the other groups.
        job: job of the unpruned network.

    Returns:
        The method's outcome, with a plan for the unpruned network.

    Raises:
        InfeasibleBudget: the other groups cannot reach the budget.
    """
    if not fixed:
        return method.prune(job)
    first, remaining = _without_fixed(fixed, job, counted=method.emits == {KeepChannels})
    with _telling(fixed):
        outcome = method.prune(remaining)
    return dc.replace(outcome, plan=first.then(outcome.plan, job.graph))


def check_with_fixed(fixed: Sizes, check: Callable[[Job], object], job: Job) -> None:
    """Check a job in which some groups have a fixed size, as `prune_with_fixed` would give it to a method.

    Args:
        fixed: size of each group that has a fixed one, by name.
        check: function that raises an error for a job that cannot be done.
        job: job of the unpruned network.

    Raises:
        EdakariError: what `check` raises.
    """
    if not fixed:
        check(job)
        return
    _, remaining = _without_fixed(fixed, job, counted=False)
    with _telling(fixed):
        check(remaining)


@contextlib.contextmanager
def _telling(fixed: Sizes) -> Iterator[None]:
    """Context in which errors about the budget mention the fixed sizes."""
    try:
        yield
    except InfeasibleBudget as error:
        raise InfeasibleBudget(f"{error} {fixed_note(fixed)}", error.least) from None


def _without_fixed(fixed: Sizes, job: Job, *, counted: bool) -> tuple[Plan, Job]:
    """The plan that cuts the groups of fixed size, and the job that is left.

    Args:
        fixed: size of each group that has a fixed one, by name.
        job: job of the unpruned network.
        counted: whether counted costs too are those of the unpruned network after the cut: a cut detector of two stages
            finds another number of regions.
    """
    scores = Magnitude().score(job.model, job.graph)
    first = Plan(keep_best(scores, fixed), job.graph.fingerprint, job.graph.inputs)
    small = apply(job.model, first, job.graph)
    graph = trace(small, job.task.example())

    def after(measured: Sequence[Cost]) -> list[Cost]:
        if counted:
            measured = [cost for cost, _ in bind(job.budget, job.graph, measured).terms]
        return [CostAfter(cost, fixed) for cost in measured]

    def loop(solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
        joined = first if before is None else first.then(before)
        return job.loop(lambda given: solve(after(given)), job.costs, joined)

    remaining = dc.replace(
        job,
        model=small,
        graph=graph,
        groups=carried(graph, [group for group in job.groups if group.name not in fixed]),
        costs=after(job.costs),
        loop=loop,
    )
    return first, remaining
