"""Unprunable positions of a network with their reasons, read from a graph."""

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
"""Location and reason in the graph's text of an unprunable dimension."""


@dc.dataclass(frozen=True, slots=True)
class Pin:
    """Unprunable positions along one dimension of a parameter.

    Args:
        tensor: name of the parameter.
        dim: which of its dimensions.
        size: number of unprunable positions.
        operator: the operator that fixes them, such as "aten.split"; "" if there is none.
        module: module in which this operator ran; "" is the network itself.
        reason: reason as text, with the operator and without the module.
    """

    tensor: str
    dim: int
    size: int
    operator: str
    module: str
    reason: str


@dc.dataclass(frozen=True, slots=True)
class PinnedReason:
    """All unprunable positions with one reason.

    Args:
        operator: as in `Pin`.
        reason: as in `Pin`.
        dims: number of dimensions of parameters.
        tensors: the parameters, in the network's order.
        params_share: fraction of the network's parameters that have such a position, 0 to 1. A parameter can have
            different reasons along different dimensions, so fractions may sum to more than 1.
    """

    operator: str
    reason: str
    dims: int
    tensors: tuple[str, ...]
    params_share: float


def pins_of(graph: Graph) -> tuple[Pin, ...]:
    """Return the unprunable positions of each dimension of each parameter; buffers follow their parameters."""
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
    """Group unprunable positions by operator and reason; the largest fraction of parameters comes first."""
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
    """Return the number of values of each parameter."""
    return {name: math.prod(int(extent(dim, {})) for dim in graph.layouts[name]) for name in graph.parameters}


def _touched(graph: Graph, sizes: Mapping[str, int], pins: Iterable[Pin]) -> float:
    """Count the parameters that have one of these positions."""
    stay: collections.Counter[tuple[str, int]] = collections.Counter()
    for pin in pins:
        stay[pin.tensor, pin.dim] += pin.size
    free: dict[str, float] = {}
    for (tensor, dim), size in stay.items():
        length = int(extent(graph.layouts[tensor][dim], {}))
        free[tensor] = free.get(tensor, 1.0) * (1.0 - min(size / length, 1.0))
    return sum(sizes[tensor] * (1.0 - share) for tensor, share in free.items())
