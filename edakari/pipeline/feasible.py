"""Refuses budgets that a network or a method cannot reach, before anything is measured, scored or trained."""

from __future__ import annotations

from typing import Any

from edakari.core.budget import Budget
from edakari.core.copying import copied
from edakari.core.method import Job
from edakari.core.plan import KeepChannels
from edakari.core.space import legal_sizes
from edakari.cost import bind
from edakari.errors import EdakariError, InfeasibleBudget
from edakari.methods.allocation import fixed_note
from edakari.methods.fixed_widths import check_with_fixed
from edakari.pipeline.context import Run
from edakari.solve.spend import require_within

__all__ = ["require_feasible", "require_reachable"]


def require_reachable(run: Run) -> None:
    """Refuse a budget below the cost of the smallest sizes of all groups.

    Args:
        run: the run; costs of its budget that are measured are not checked.

    Raises:
        InfeasibleBudget: the message states the least possible cost.
    """
    budget = _counted(run)
    if not budget.terms or run.settings.method.emits != {KeepChannels}:
        return  # dropped branches and fewer tokens lower the cost further
    sizes = {**{group.name: legal_sizes(group)[0] for group in run.chosen.free}, **run.chosen.fixed}
    try:
        require_within(bind(budget, run.graph), sizes, len(run.chosen.free))
    except InfeasibleBudget as error:
        note = f" {fixed_note(run.chosen.fixed)}" if run.chosen.fixed else ""
        raise InfeasibleBudget(f"{error}{note}", error.least) from None


def require_feasible(run: Run) -> None:
    """Let the method check the network and the budget, if it can; see `edakari.core.method.Method`.

    Args:
        run: the run; costs of its budget that are measured are not checked.

    Raises:
        EdakariError: the method cannot prune this network to this budget.
    """
    check = getattr(run.settings.method, "check_job", None)
    if callable(check):
        model, budget = copied(run.dense), _counted(run).absolute(run.dense_costs)
        job = Job(model, run.graph, run.groups, run.task, budget, fit=_untrained, seed=run.settings.seed)
        check_with_fixed(run.chosen.fixed, check, job)


def _counted(run: Run) -> Budget:
    """The budget without the limits of costs that must be measured."""
    asked = run.settings.budget
    return Budget(tuple(term for term in asked.terms if term.cost in run.dense_costs), asked.sparsity)


def _untrained(*arguments: Any, **settings: Any) -> Any:
    raise EdakariError("check_job(job) of a method trains; it must only check the network and the budget")
