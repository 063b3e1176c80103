"""Where the units of a group are in a network: the size of their maps, and the kernel that makes them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

from edakari.core.graph import Graph, Operator
from edakari.core.layout import Fixed, Layout
from edakari.graph.operators import BATCH_NORMS, named
from edakari.methods.tickets.gates import GateGroup

__all__ = ["Place", "places"]

CONVOLUTIONS = frozenset(named("convolution"))


@dc.dataclass(frozen=True, slots=True)
class Place:
    """Where the units of a group are.

    Args:
        name: name of the group.
        size: its number of units in the dense network.
        kernel: kernel size of the convolutions before its gates, such as (3, 3); empty if they differ, or are none.
        map: height and width of the units' maps for the traced example, elements; empty if they differ, or are none.
    """

    name: str
    size: int
    kernel: tuple[int, ...]
    map: tuple[int, ...]


def places(graph: Graph, groups: Sequence[GateGroup]) -> tuple[Place, ...]:
    """Return where the units of groups are, in the order of the groups.

    Args:
        graph: graph of the dense network.
        groups: groups with gates.
    """
    normed = {operator.weights[0]: operator for operator in graph.operators if _is_norm(operator)}
    found = []
    for each in groups:
        norms = [normed[name] for name in each.norms if name in normed]
        kernels = {_kernel(graph, norm) for norm in norms}
        maps = {_sizes(norm.outputs[0][2:]) for norm in norms}
        found.append(Place(each.name, each.group.size, _only(kernels), _only(maps)))
    return tuple(found)


def _is_norm(operator: Operator) -> bool:
    return operator.name in BATCH_NORMS and bool(operator.weights)


def _kernel(graph: Graph, norm: Operator) -> tuple[int, ...]:
    """Kernel size of the convolution whose output a batch norm reads; empty if there is none."""
    source = norm.sources[0] if norm.sources else None
    if source is None or graph.operators[source].name not in CONVOLUTIONS:
        return ()
    return _sizes(graph.operators[source].inputs[1][2:])


def _sizes(layouts: Sequence[Layout]) -> tuple[int, ...]:
    sizes = [layout.size for layout in layouts if isinstance(layout, Fixed)]
    return tuple(sizes) if len(sizes) == len(layouts) else ()


def _only(found: set[tuple[int, ...]]) -> tuple[int, ...]:
    return found.pop() if len(found) == 1 else ()
