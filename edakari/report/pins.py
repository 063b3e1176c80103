"""What stays whole in a network and why, read from a graph's refusals."""

from __future__ import annotations

import collections
import dataclasses as dc
import math
import re
from collections.abc import Iterable, Mapping

from edakari.core.graph import Graph
from edakari.core.layout import extent

__all__ = ["Pin", "PinnedReason", "parameter_sizes", "pinned_by_reason", "pins_of"]

PLACE = re.compile(r"(?P<tensor>.*)\[(?P<dim>\d+)\]", re.DOTALL)
REASON = re.compile(r"(?P<operator>\S+) in (?P<module>the network|[^\s:]+)(?P<why>:?(\s.*)?)", re.DOTALL)
"""A refusal's place and its reason as the graph words them."""


@dc.dataclass(frozen=True, slots=True)
class Pin:
    """Positions along one dimension of a parameter that stay.

    Args:
        tensor: name of the parameter.
        dim: which of its dimensions.
        size: number of positions that stay.
        operator: that fixed them, such as "aten.split"; "" where none did.
        module: in which that operator ran; "" is the network itself.
        reason: in words, with the operator and without the module.
    """

    tensor: str
    dim: int
    size: int
    operator: str
    module: str
    reason: str


@dc.dataclass(frozen=True, slots=True)
class PinnedReason:
    """All that stays for one reason.

    Args:
        operator: as in `Pin`.
        reason: as in `Pin`.
        dims: number of dimensions of parameters.
        tensors: the parameters, in the network's order.
        params_share: share of the network's parameters that have such a position, 0 to 1. A parameter can stay for
            one reason along one dimension and for another along the next, so that shares may add up to more than 1.
    """

    operator: str
    reason: str
    dims: int
    tensors: tuple[str, ...]
    params_share: float


def pins_of(graph: Graph) -> tuple[Pin, ...]:
    """What stays, for each dimension of each parameter; buffers follow the parameters that they belong to."""
    parameters = frozenset(graph.parameters)
    pins = []
    for unprunable in graph.unprunable:
        index = PLACE.fullmatch(unprunable.where)
        if index is None or index["tensor"] not in parameters:
            continue
        found = REASON.fullmatch(unprunable.reason)
        operator, module, why = found.group("operator", "module", "why") if found else ("", "", unprunable.reason)
        module = "" if module == "the network" else module
        pins.append(Pin(index["tensor"], int(index["dim"]), unprunable.size, operator, module, operator + why))
    return tuple(pins)


def pinned_by_reason(graph: Graph) -> tuple[PinnedReason, ...]:
    """What stays, gathered by operator and reason; the largest share of parameters first."""
    sizes = parameter_sizes(graph)
    total = sum(sizes.values())
    by_reason: dict[tuple[str, str], list[Pin]] = {}
    for pin in pins_of(graph):
        by_reason.setdefault((pin.operator, pin.reason), []).append(pin)
    reasons = [
        PinnedReason(
            operator,
            reason,
            len({(pin.tensor, pin.dim) for pin in pins}),
            tuple(dict.fromkeys(pin.tensor for pin in pins)),
            _touched(graph, sizes, pins) / total if total else 0.0,
        )
        for (operator, reason), pins in by_reason.items()
    ]
    return tuple(sorted(reasons, key=lambda found: -found.params_share))


def parameter_sizes(graph: Graph) -> dict[str, int]:
    """Number of values of each parameter."""
    return {name: math.prod(int(extent(dim, {})) for dim in graph.layouts[name]) for name in graph.parameters}


def _touched(graph: Graph, sizes: Mapping[str, int], pins: Iterable[Pin]) -> float:
    """How many parameters have one of these positions."""
    stay: collections.Counter[tuple[str, int]] = collections.Counter()
    for pin in pins:
        stay[pin.tensor, pin.dim] += pin.size
    free: dict[str, float] = {}
    for (tensor, dim), size in stay.items():
        length = int(extent(graph.layouts[tensor][dim], {}))
        free[tensor] = free.get(tensor, 1.0) * (1.0 - min(size / length, 1.0))
    return sum(sizes[tensor] * (1.0 - share) for tensor, share in free.items())
