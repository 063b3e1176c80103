"""From a budget as the user wrote it to limits that a solver can ask."""

from __future__ import annotations

from collections.abc import Callable

from edakari.core.budget import Budget, Limits
from edakari.core.graph import Graph
from edakari.core.protocols import Cost
from edakari.cost import counts

__all__ = ["COSTS", "bind", "dense"]

COSTS: dict[str, Callable[[Graph], Cost]] = {
    "macs": counts.macs,
    "params": counts.params,
    "activations": counts.activations,
}
"""Every cost that a budget may name."""


def dense(graph: Graph) -> dict[str, float]:
    """Cost of the network as traced, by name, each in its cost's unit."""
    return {name: cost(graph).total({}) for name, cost in COSTS.items()}


def bind(budget: Budget, graph: Graph) -> Limits:
    """A budget for a network.

    Args:
        budget: shares are of this graph's dense cost.
        graph: of the network.
    """
    absolute = budget.absolute(dense(graph))
    return Limits(tuple((COSTS[term.cost](graph), term.limit) for term in absolute.terms))
