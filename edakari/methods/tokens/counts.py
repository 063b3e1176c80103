"""The largest numbers of patches within a budget: a design's counts at the smallest strength that meets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from edakari.core.budget import Budget, Limits
from edakari.core.method import Job
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.cost.counts import macs
from edakari.errors import BudgetError, InfeasibleBudget
from edakari.graph import example_for, shadow_of
from edakari.surgery.tokens import attach
from edakari.surgery.tokens.costs import tokens_at
from edakari.surgery.tokens.design import Counts, TokenDesign
from edakari.surgery.tokens.graphs import graph_with_selectors, token_macs

__all__ = ["known_costs", "mildest", "planned", "token_limits"]

STEPS = 400
"""Number of strengths that are tried between no pruning and the strongest one."""
SPARE = 8
"""Rounds in which the limits are lowered, because the network costs more than its blocks alone."""


def mildest(limits: Limits, schedule: Callable[[float], Counts], names: Sequence[str], steps: int = STEPS) -> Counts:
    """Return the counts of the smallest strength whose costs are within the limits.

    Args:
        limits: costs and their limits.
        schedule: function from a strength, from 0 to 1, to the number of patches behind each selector.
        names: dotted paths of the blocks that have selectors.
        steps: number of strengths that are tried.

    Raises:
        InfeasibleBudget: no strength is within the limits; the error gives the lowest costs.
    """
    least: dict[str, float] = {}
    for counts in _distinct(schedule, steps):
        sizes = {tokens_at(name): count for name, count in zip(names, counts, strict=True)}
        if limits.excess(sizes) <= 0:
            return counts
        for cost, _ in limits.terms:
            least[cost.name] = min(least.get(cost.name, math.inf), cost.total(sizes))
    reached = ", ".join(f"{cost.name} {least[cost.name]:.6g} {cost.unit}" for cost, _ in limits.terms)
    asked = ", ".join(f"{cost.name} {limit:.6g} {cost.unit}" for cost, limit in limits.terms)
    raise InfeasibleBudget(
        f"no number of tokens is within the budget of {asked}: the fewest tokens at these blocks reach {reached}. "
        "Prune earlier blocks, prune channels too, or raise the budget.",
        least,
    )


def _distinct(schedule: Callable[[float], Counts], steps: int) -> Iterator[Counts]:
    seen = None
    for step in range(steps):
        counts = schedule(step / steps)
        if counts != seen and min(counts) >= 1:
            seen = counts
            yield counts


def planned(job: Job, design: TokenDesign, costs: Sequence[Cost], keep_ratios: Sequence[float] = ()) -> Plan:
    """Return the plan of a design within a job's budget.

    Args:
        job: network and budget.
        design: selectors and their blocks.
        costs: measured costs; multiply-accumulates are counted, unless they are among them.
        keep_ratios: fractions of the patches that the user sets; they are only checked against the budget.

    Raises:
        InfeasibleBudget: the budget cannot be met.
        BudgetError: the budget names a cost that does not depend on tokens.
    """
    design.check()
    names = [design.sites.names[index] for index in design.blocks]
    known = known_costs(job, design, costs)
    limits = _limits(job.budget, known)
    fixed = design.counts_of(keep_ratios) if keep_ratios else None
    counted = next((limit for cost, limit in limits.terms if cost.name == "macs"), None)
    for _ in range(SPARE):
        counts = mildest(limits, (lambda strength: fixed) if fixed else design.counts, names)
        plan = Plan(design.edits(counts), job.graph.fingerprint, job.graph.inputs)
        if counted is None or not plan.edits:
            return plan
        exact = _exact_macs(job.model, plan)
        if exact <= counted:
            return plan
        # the selectors have multiply-accumulates too
        estimated = known["macs"].total(plan.sizes())
        limits = _limits(job.budget, known, {"macs": counted - (exact - estimated)})
    raise InfeasibleBudget(f"the network with selectors stays at {exact:.6g} MACs; raise the budget", {"macs": exact})


def known_costs(job: Job, design: TokenDesign, costs: Sequence[Cost]) -> dict[str, Cost]:
    """Return costs by name: the measured ones, and multiply-accumulates if the budget names them.

    Args:
        job: network and budget.
        design: selectors and their blocks.
        costs: measured costs.
    """
    known = {cost.name: cost for cost in costs}
    if any(term.cost == "macs" for term in job.budget.terms) and "macs" not in known:
        example = example_for(job.model, job.graph.inputs)
        known["macs"] = token_macs(job.model, example, design.sites, design.packages)
    return known


def token_limits(job: Job, design: TokenDesign) -> Limits:
    """Bind a job's budget to costs that depend on numbers of tokens.

    Args:
        job: network, budget and measured costs.
        design: selectors and their blocks.

    Raises:
        BudgetError: the budget names a cost that does not depend on tokens.
    """
    return _limits(job.budget, known_costs(job, design, job.costs))


def _limits(budget: Budget, known: Mapping[str, Cost], lower: Mapping[str, float] | None = None) -> Limits:
    for term in budget.terms:
        if term.cost not in known:
            raise BudgetError(
                f"the budget term {str(term)!r} does not depend on the number of tokens; token pruning meets budgets "
                f"of macs and latency (known here: {', '.join(sorted(known)) or 'none'})"
            )
    return Limits(tuple((known[term.cost], (lower or {}).get(term.cost, term.limit)) for term in budget.terms))


def _exact_macs(model: nn.Module, plan: Plan) -> float:
    small = shadow_of(model, "meta")
    example = example_for(small, plan.inputs)
    return macs(graph_with_selectors(attach(small, plan.tokens(), example), example)).total({})
