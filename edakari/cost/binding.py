"""From a budget as the user wrote it to limits that a solver can ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from edakari.core.budget import COUNTED, MEASURED, Budget, Limits
from edakari.core.graph import Graph
from edakari.core.protocols import Cost
from edakari.core.registry import Registry
from edakari.core.space import Sizes
from edakari.errors import BudgetError, UnknownName

__all__ = ["COSTS", "bind", "counted", "dense", "require_known"]

COSTS: Registry[Callable[[Graph], Cost]] = Registry(
    "cost",
    "edakari.costs",
    {**{name: f"edakari.cost.counts:{name}" for name in COUNTED}, "memory": "edakari.cost.memory:memory"},
    members=("name", "unit", "total", "curve"),
)
"""Every cost that the graph alone tells, by name; see `edakari.core.protocols.Cost`."""


def dense(graph: Graph, budget: Budget | None = None) -> dict[str, float]:
    """The usual costs of the network as traced, and those that a budget names, by name, each in its cost's unit.

    Args:
        graph: of the network.
        budget: may name costs of others; measured ones are left out.
    """
    return counted(graph, {}, budget)


def counted(graph: Graph, sizes: Sizes, budget: Budget | None = None) -> dict[str, float]:
    """What `dense` tells, of the network at some sizes.

    Args:
        graph: of the network.
        sizes: of its groups; those that are not named stay whole.
        budget: see `dense`.
    """
    asked = [term.cost for term in budget.terms if term.cost not in MEASURED] if budget else []
    names = dict.fromkeys((*COUNTED, *asked))
    return {name: float(_made(name, graph).total(sizes)) for name in names if name in COSTS}


def bind(budget: Budget, graph: Graph, measured: Sequence[Cost] = ()) -> Limits:
    """A budget for a network.

    Args:
        budget: shares are of this graph's dense cost.
        graph: of the network.
        measured: costs that the graph alone does not tell, such as `edakari.measure_latency(model, example)`; they take
            the place of registered ones of the same name.

    Raises:
        BudgetError: the budget names a measured cost that was not given.
        UnknownName: it names a cost that nobody knows; says the nearest, and how to add one.
    """
    given = {cost.name: cost for cost in measured}
    costs: dict[str, Cost] = {}
    for term in budget.terms:
        if term.cost not in given:
            require_known(term.cost, given)
            if term.cost in MEASURED:
                raise BudgetError(
                    f"the budget term {str(term)!r} needs a measured cost, which was not given here; make one with "
                    "edakari.measure_latency(model, example) and give it as costs=[cost]"
                )
        costs[term.cost] = given[term.cost] if term.cost in given else _made(term.cost, graph)
    absolute = budget.absolute({name: cost.total({}) for name, cost in costs.items()})
    return Limits(tuple((costs[term.cost], term.limit) for term in absolute.terms))


def require_known(name: str, given: Mapping[str, Cost] | Iterable[str] = ()) -> None:
    """Refuse a cost that nobody knows.

    Args:
        name: as the budget has it.
        given: names of costs that are known besides.

    Raises:
        UnknownName: says the nearest, and how to add one.
    """
    if name not in MEASURED and name not in COSTS:
        raise UnknownName("cost in the budget", name, {*COSTS, *MEASURED, *given}, COSTS.advice)


def _made(name: str, graph: Graph) -> Cost:
    cost = COSTS.named(name)(graph)
    COSTS.require(cost, name)
    return cost
