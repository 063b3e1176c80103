"""From scores and a budget to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from edakari.core.arguments import require, require_methods
from edakari.core.budget import Budget
from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.core.protocols import Allocator, Cost
from edakari.core.space import Group, Scores
from edakari.cost import bind
from edakari.errors import EdakariError, UnknownName
from edakari.solve import Knapsack, Threshold, Uniform, keep_best, values_of

__all__ = ["ALLOCATORS", "AllocatorName", "allocate", "allocator_named"]

AllocatorName = Literal["threshold", "uniform", "knapsack"]

ALLOCATORS: Mapping[str, type[Threshold] | type[Uniform] | type[Knapsack]] = {
    "threshold": Threshold,
    "uniform": Uniform,
    "knapsack": Knapsack,
}


def allocate(
    graph: Graph,
    scores: Scores,
    budget: Budget | str,
    allocator: Allocator | None = None,
    groups: Sequence[Group] | None = None,
    costs: Sequence[Cost] = (),
) -> Plan:
    """Keep the best channels of each group, as many as a budget allows.

    Args:
        graph: of the network to prune.
        scores: score of each channel, float [size], by group.
        budget: what the pruned network may cost; shares are of this graph's own cost. A text is parsed.
        allocator: who spends the budget on groups; None is `Threshold()`.
        groups: the groups that may be cut, with their legal sizes; None is all of the graph's. Others stay whole.
        costs: measured costs that the budget names, such as `edakari.measure_latency(model, example)`.

    Returns:
        A plan within the budget; groups that stay whole have no edit.

    Raises:
        InfeasibleBudget: no legal sizes are within the budget.
        BudgetError: the budget names a measured cost that is not among `costs`.
        EdakariError: a group to be cut has no scores, or not one per channel.
    """
    call = "allocate(graph, scores, budget)"
    require(call, graph=(graph, Graph), scores=(scores, Mapping), budget=(budget, (Budget, str)))
    if allocator is not None:
        require_methods(call, "allocator", allocator, ("allocate",))
    for cost in costs:
        require_methods(call, "costs", cost, ("total", "curve"))
    groups = graph.groups if groups is None else groups
    missing = [group.name for group in groups if group.name not in scores]
    if missing:
        raise EdakariError(
            f"{len(missing)} of {len(groups)} groups have no scores, such as {missing[0]!r}; "
            "score them, or name the groups to cut in `groups`"
        )
    limits = bind(Budget.parse(budget) if isinstance(budget, str) else budget, graph, costs)
    scores = {group.name: scores[group.name] for group in groups}
    sizes = (allocator or Threshold()).allocate(groups, values_of(scores), limits)
    return Plan(keep_best(scores, sizes), graph.fingerprint, graph.inputs)


def allocator_named(name: str) -> Allocator:
    """An allocator with its own defaults.

    Raises:
        UnknownName: there is none of that name; says the nearest.
    """
    if name not in ALLOCATORS:
        raise UnknownName("allocator", name, ALLOCATORS)
    return ALLOCATORS[name]()
