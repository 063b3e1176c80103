"""Allocation: turns scores and a budget into a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edakari.core.arguments import require, require_methods
from edakari.core.budget import Budget, Limits
from edakari.core.choosing import Groups, choose
from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.core.protocols import Allocator, Cost
from edakari.core.space import Group, Scores, Sizes
from edakari.cost import bind
from edakari.cost.cost_after import CostAfter
from edakari.errors import EdakariError, InfeasibleBudget
from edakari.solve import ALLOCATORS, Threshold, keep_best, values_of

__all__ = ["allocate", "allocator_named", "fixed_note"]


def allocate(
    graph: Graph,
    scores: Scores,
    budget: Budget | str,
    allocator: Allocator | None = None,
    groups: Groups | Sequence[Group] | None = None,
    costs: Sequence[Cost] = (),
) -> Plan:
    """Keep the channels of highest score in each group, as many as a budget allows.

    Args:
        graph: graph of the network to prune.
        scores: score of each channel, float [size], by group.
        budget: limits on the costs of the pruned network; percentages refer to the costs of `graph`. Text is parsed.
        allocator: allocator that chooses the size of each group; None is `Threshold()`.
        groups: groups that may be cut and their legal sizes, as `edakari.Groups(round_to=8,
            widths={"layer4.*": "75%"})` or as a sequence of groups; None is all groups of the graph. Other groups stay
            unpruned. Widths become multiples of 8 if the budget has a latency, unless `round_to` or the groups' own
            sizes say otherwise.
        costs: measured costs that the budget names, such as `edakari.measure_latency(model, example)`.

    Returns:
        A plan within the budget; unpruned groups have no edit.

    Raises:
        InfeasibleBudget: no legal sizes are within the budget.
        BudgetError: the budget names a measured cost that is not among `costs`.
        EdakariError: a group that may be cut has no scores, or their number differs from its number of channels.
        SettingsError: a pattern of `groups` matches no group, or a fixed width is larger than its group.
    """
    call = "allocate(graph, scores, budget)"
    require(call, graph=(graph, Graph), scores=(scores, Mapping), budget=(budget, (Budget, str)))
    if allocator is not None:
        require_methods(call, "allocator", allocator, ("allocate",))
    for cost in costs:
        require_methods(call, "costs", cost, ("total", "curve"))
    budget = Budget.parse(budget) if isinstance(budget, str) else budget
    groups, fixed = _sized(graph, groups, budget)
    missing = [group.name for group in groups if group.name not in scores]
    if missing:
        raise EdakariError(
            f"{len(missing)} of {len(groups)} groups have no scores, such as {missing[0]!r}; "
            "score them, or list the groups to cut in `groups`"
        )
    limits = bind(budget, graph, costs)
    scores = {group.name: scores[group.name] for group in groups}
    free = [group for group in groups if group.name not in fixed]
    sizes = _spent(allocator or Threshold(), free, scores, limits, fixed)
    return Plan(keep_best(scores, sizes), graph.fingerprint, graph.inputs)


def _sized(graph: Graph, groups: Groups | Sequence[Group] | None, budget: Budget) -> tuple[Sequence[Group], Sizes]:
    """The groups that get a size, and the sizes that are fixed."""
    if groups is not None and not isinstance(groups, Groups):
        return groups, {}
    chosen = choose(graph, (groups or Groups()).under(budget))
    return chosen.every, chosen.fixed


def _spent(allocator: Allocator, groups: Sequence[Group], scores: Scores, limits: Limits, fixed: Sizes) -> Sizes:
    """Return the sizes of all groups, including the fixed ones."""
    if not fixed:
        return allocator.allocate(groups, values_of(scores), limits)
    left = Limits(tuple((CostAfter(cost, fixed), limit) for cost, limit in limits.terms))
    try:
        return {**fixed, **allocator.allocate(groups, values_of(scores), left)}
    except InfeasibleBudget as error:
        raise InfeasibleBudget(f"{error} {fixed_note(fixed)}", error.least) from None


def fixed_note(fixed: Sizes) -> str:
    """Return the hint that an error about an infeasible budget gives on fixed widths.

    Args:
        fixed: fixed size of each group, by name; not empty.
    """
    return f"Widths of {len(fixed)} groups are fixed, such as {next(iter(fixed))!r}: fix fewer, or smaller ones."


def allocator_named(name: str) -> Allocator:
    """Return the allocator of a name, with its default settings.

    Args:
        name: registered name, such as "knapsack", or `file.py:NAME`.

    Raises:
        UnknownName: no allocator has this name; the error gives the nearest name.
    """
    allocator = ALLOCATORS.named(name)()
    ALLOCATORS.require(allocator, name)
    return allocator
