"""From scores and a budget to a plan."""

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
    """Keep the best channels of each group, as many as a budget allows.

    Args:
        graph: of the network to prune.
        scores: score of each channel, float [size], by group.
        budget: what the pruned network may cost; shares are of this graph's own cost. A text is parsed.
        allocator: who spends the budget on groups; None is `Threshold()`.
        groups: which groups may be cut and to what, as `edakari.Groups(round_to=8, widths={"layer4.*": "75%"})`, or
            the groups themselves with their legal sizes; None is all of the graph's. Others stay whole.
        costs: measured costs that the budget names, such as `edakari.measure_latency(model, example)`.

    Returns:
        A plan within the budget; groups that stay whole have no edit.

    Raises:
        InfeasibleBudget: no legal sizes are within the budget.
        BudgetError: the budget names a measured cost that is not among `costs`.
        EdakariError: a group to be cut has no scores, or not one per channel.
        SettingsError: a pattern of `groups` is met by no group, or a fixed width is larger than its group.
    """
    call = "allocate(graph, scores, budget)"
    require(call, graph=(graph, Graph), scores=(scores, Mapping), budget=(budget, (Budget, str)))
    if allocator is not None:
        require_methods(call, "allocator", allocator, ("allocate",))
    for cost in costs:
        require_methods(call, "costs", cost, ("total", "curve"))
    fixed: Sizes = {}
    if isinstance(groups, Groups):
        chosen = choose(graph, groups)
        groups, fixed = chosen.every, chosen.fixed
    groups = graph.groups if groups is None else groups
    missing = [group.name for group in groups if group.name not in scores]
    if missing:
        raise EdakariError(
            f"{len(missing)} of {len(groups)} groups have no scores, such as {missing[0]!r}; "
            "score them, or name the groups to cut in `groups`"
        )
    limits = bind(Budget.parse(budget) if isinstance(budget, str) else budget, graph, costs)
    scores = {group.name: scores[group.name] for group in groups}
    free = [group for group in groups if group.name not in fixed]
    sizes = _spent(allocator or Threshold(), free, scores, limits, fixed)
    return Plan(keep_best(scores, sizes), graph.fingerprint, graph.inputs)


def _spent(allocator: Allocator, groups: Sequence[Group], scores: Scores, limits: Limits, fixed: Sizes) -> Sizes:
    """Sizes of all groups, those that are fixed among them."""
    if not fixed:
        return allocator.allocate(groups, values_of(scores), limits)
    left = Limits(tuple((CostAfter(cost, fixed), limit) for cost, limit in limits.terms))
    try:
        return {**fixed, **allocator.allocate(groups, values_of(scores), left)}
    except InfeasibleBudget as error:
        raise InfeasibleBudget(f"{error} {fixed_note(fixed)}", error.least) from None


def fixed_note(fixed: Sizes) -> str:
    """What to add where a budget cannot be reached."""
    return f"Widths of {len(fixed)} groups are fixed, such as {next(iter(fixed))!r}: fix fewer, or smaller ones."


def allocator_named(name: str) -> Allocator:
    """An allocator with its own defaults.

    Raises:
        UnknownName: there is none of that name; says the nearest.
    """
    allocator = ALLOCATORS.named(name)()
    ALLOCATORS.require(allocator, name)
    return allocator
