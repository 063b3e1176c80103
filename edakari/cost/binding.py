"""From a budget as the user wrote it to limits that a solver can ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edakari.core.budget import Budget, Limits
from edakari.core.graph import Graph
from edakari.core.protocols import Cost
from edakari.cost import counts
from edakari.errors import BudgetError

__all__ = ["COSTS", "bind", "dense"]

COSTS: dict[str, Callable[[Graph], Cost]] = {
    "macs": counts.macs,
    "flops": counts.flops,
    "params": counts.params,
    "activations": counts.activations,
    "size": counts.size,
}
"""Every cost that is counted from the graph alone."""


def dense(graph: Graph) -> dict[str, float]:
    """Every counted cost of the network as traced, by name, each in its cost's unit."""
    return {name: cost(graph).total({}) for name, cost in COSTS.items()}


def bind(budget: Budget, graph: Graph, measured: Sequence[Cost] = ()) -> Limits:
    """A budget for a network.

    Args:
        budget: shares are of this graph's dense cost.
        graph: of the network.
        measured: costs that the graph alone does not tell, such as `edakari.measure_latency(model, example)`.

    Raises:
        BudgetError: the budget names a cost that is not counted and was not given.
    """
    costs = {cost.name: cost for cost in (*(make(graph) for make in COSTS.values()), *measured)}
    for term in budget.terms:
        if term.cost not in costs:
            raise BudgetError(
                f"the budget term {str(term)!r} needs a measured cost, which was not given here; make one with "
                "edakari.measure_latency(model, example) and give it as costs=[cost]"
            )
    absolute = budget.absolute({name: cost.total({}) for name, cost in costs.items()})
    return Limits(tuple((costs[term.cost], term.limit) for term in absolute.terms))
