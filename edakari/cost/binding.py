"""Converts a budget as the user wrote it to limits for a solver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from edakari.core.budget import COUNTED, LATENCY, Budget, Limits, is_latency
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
"""Every cost that depends on the graph only, by name; see `edakari.core.protocols.Cost`."""


def dense(graph: Graph, budget: Budget | None = None) -> dict[str, float]:
    """Compute the usual costs of the traced network, and those that a budget names, each in its cost's unit.

    Args:
        graph: graph of the network.
        budget: budget that may name further costs; measured ones are left out.
    """
    return counted(graph, {}, budget)


def counted(graph: Graph, sizes: Sizes, budget: Budget | None = None) -> dict[str, float]:
    """Compute the costs of `dense` at given sizes.

    Args:
        graph: graph of the network.
        sizes: sizes of its groups; groups without a size stay unpruned.
        budget: see `dense`.
    """
    asked = [term.cost for term in budget.terms if not is_latency(term.cost)] if budget else []
    names = dict.fromkeys((*COUNTED, *asked))
    return {name: float(_made(name, graph).total(sizes)) for name in names if name in COSTS}


def bind(budget: Budget, graph: Graph, measured: Sequence[Cost] = ()) -> Limits:
    """Apply a budget to a network.

    Args:
        budget: budget; its relative limits are fractions of this graph's dense cost.
        graph: graph of the network.
        measured: costs that depend on more than the graph, such as `edakari.measure_latency(model, example)`. They
            replace registered costs of the same name.

    Raises:
        BudgetError: the budget names a measured cost that was not given, or asks for a sparsity.
        UnknownName: the budget names an unknown cost; the message names the nearest one, and says how to add a cost.
    """
    if budget.sparsity:
        raise BudgetError(
            f"the budget {str(budget)!r} asks for a sparsity, which masks single weights and removes no channels; "
            "take a method that masks weights, such as 'gradual_magnitude', or leave it out"
        )
    if budget.drop is not None:
        raise BudgetError(
            f"the budget {str(budget)!r} limits the loss of a metric, for which several networks are trained; "
            "`edakari prune` and edakari.prune with a task do so"
        )
    given = {cost.name: cost for cost in measured}
    costs: dict[str, Cost] = {}
    for term in budget.terms:
        if term.cost not in given:
            require_known(term.cost, given)
            if is_latency(term.cost):
                name = "" if term.cost == LATENCY else f".named({term.cost!r})"
                raise BudgetError(
                    f"the budget term {str(term)!r} needs a measured cost, which was not given here; make one with "
                    f"edakari.measure_latency(model, example){name} and give it as costs=[cost]"
                )
        costs[term.cost] = given[term.cost] if term.cost in given else _made(term.cost, graph)
    absolute = budget.absolute({name: cost.total({}) for name, cost in costs.items()})
    return Limits(tuple((costs[term.cost], term.limit) for term in absolute.terms))


def require_known(name: str, given: Mapping[str, Cost] | Iterable[str] = ()) -> None:
    """Refuse an unknown cost.

    Args:
        name: name of the cost in the budget.
        given: names of further known costs.

    Raises:
        UnknownName: the cost is unknown; the message names the nearest one, and says how to add a cost.
    """
    if not is_latency(name) and name not in COSTS:
        raise UnknownName("cost in the budget", name, {*COSTS, LATENCY, *given}, COSTS.advice)


def _made(name: str, graph: Graph) -> Cost:
    cost = COSTS.named(name)(graph)
    COSTS.require(cost, name)
    return cost
