"""Gates: the scales of batch norms that tell how much each unit of a group matters, and what a unit costs.

A unit is one channel of a group. It is gated if every way from its producers to the layers that read it passes a batch
norm with a scale; the last batch norm on each way counts. In an inverted residual block that is the one after the
depthwise convolution. A unit with one such scale has its absolute value as gate. A unit with several, as in a residual
stream that many blocks add to, has their Euclidean norm: it is 0 only if no block adds anything but a constant.

A network may mark its gates itself: a module with an attribute `gate_norms` lists the dotted paths of batch norms
inside it. Then only the groups of marked norms are searched, as in the supernet of SuperTickets, whose stem and
residual streams keep their widths.
"""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edakari.core.graph import Graph, Operator
from edakari.core.layout import Axis, Concat, Fixed, Layout, Product
from edakari.core.space import Group
from edakari.cost import macs
from edakari.errors import ModelError
from edakari.graph.operators import BATCH_NORMS, named
from edakari.methods.masking.consumers import names_in

__all__ = ["LAST", "GateGroup", "Weighting", "cost_weights", "gates_of", "mean_cost", "ungated", "units_in"]

Weighting = Literal["cost", "equal"]
PRODUCTS = frozenset(named("multiplication"))
LAST = ":last"
"""End of the name of a group that has one unit left, which a trace no longer finds."""
SHOWN = 5
"""Number of groups that an error names."""


@dc.dataclass(frozen=True, slots=True)
class GateGroup:
    """A group whose units have gates.

    Args:
        group: the group, with its legal sizes.
        norms: names of the batch norm weights that gate it.
        linear: coefficient a of its multiply-accumulates a n + b n^2, with n units and all other groups unpruned.
        quadratic: coefficient b. It is 0 unless units interact, as tokens do in attention.
    """

    group: Group
    norms: tuple[str, ...]
    linear: float
    quadratic: float = 0.0

    @property
    def name(self) -> str:
        """Name of the group."""
        return self.group.name

    def macs(self, units: int) -> float:
        """Return the multiply-accumulates of the last of so many units."""
        return self.linear + self.quadratic * (2 * units - 1)


def gates_of(model: nn.Module, graph: Graph, groups: Sequence[Group] | None = None) -> tuple[GateGroup, ...]:
    """Find the groups whose units have gates, and what their units cost.

    Args:
        model: the network.
        graph: its graph; costs are those for the example that was traced.
        groups: groups that may be searched; None takes all.

    Raises:
        ModelError: no group has gates; the message names groups, says why, and what to do.
    """
    groups = graph.groups if groups is None else groups
    found = _norms_of_groups(model, graph, groups)
    count = macs(graph)
    made = []
    for group in groups:
        norms = found[group.name]
        if not isinstance(norms, str):
            curve = count.curve(group, {})
            last = curve[-1] - curve[-2]
            bend = (last - (curve[-2] - curve[-3])) / 2 if group.size > 1 else 0.0
            made.append(GateGroup(group, norms, float(last - bend * (2 * group.size - 1)), float(bend)))
    if not made:
        raise ModelError(_without_gates(groups, {name: why for name, why in found.items() if isinstance(why, str)}))
    return tuple(made)


def ungated(model: nn.Module, graph: Graph, groups: Sequence[Group] | None = None) -> dict[str, str]:
    """Return the groups without gates, with the reason in words.

    Args:
        model: the network.
        graph: its graph.
        groups: groups that may be searched; None takes all.
    """
    found = _norms_of_groups(model, graph, graph.groups if groups is None else groups)
    return {name: why for name, why in found.items() if isinstance(why, str)}


def mean_cost(groups: Sequence[GateGroup]) -> float:
    """Return the mean multiply-accumulates of a unit over all units of all groups, at their full sizes."""
    units = sum(each.group.size for each in groups)
    # the small number is the paper's
    return sum(each.group.size * each.macs(each.group.size) for each in groups) / (units + 1e-5)


def cost_weights(groups: Sequence[GateGroup], weighting: Weighting = "cost") -> dict[str, float]:
    """Return the weight of each group's penalty: what one of its units costs, relative to the mean over all units.

    Args:
        groups: groups with gates.
        weighting: "cost", or "equal" for weights of 1, as in Network Slimming.
    """
    if weighting == "equal":
        return {each.name: 1.0 for each in groups}
    mean = mean_cost(groups)
    return {each.name: each.macs(each.group.size) / mean for each in groups}


def units_in(layout: Layout, group: str) -> npt.NDArray[np.int64]:
    """Return the unit of a group at each position of a dimension, int64 [positions]; -1 where there is none."""
    match layout:
        case Fixed(1) if group.endswith(LAST):
            return np.zeros(1, dtype=np.int64)
        case Fixed(size):
            return np.full(size, -1)
        case Axis(name, size):
            return np.arange(size) if name == group else np.full(size, -1)
        case Concat(parts):
            return np.concatenate([units_in(part, group) for part in parts])
        case Product(parts):
            found = np.full(1, -1)
            for part in parts:
                found = np.maximum.outer(found, units_in(part, group)).ravel()
            return found


def _norms_of_groups(model: nn.Module, graph: Graph, groups: Sequence[Group]) -> dict[str, tuple[str, ...] | str]:
    """For each group, the batch norm weights that gate it, or the reason why it has no gates."""
    marked = _marked(model)
    if not marked:
        return {group.name: _norms_before_readers(graph, group.name) for group in groups}
    found: dict[str, tuple[str, ...] | str] = {}
    for group in groups:
        own = tuple(name for name in marked if name in graph.layouts and group.name in names_in(*graph.layouts[name]))
        found[group.name] = own or "the network marks its gates, and none of them is on this group"
    return found


def _marked(model: nn.Module) -> tuple[str, ...]:
    """The weights of the batch norms that the network's modules mark as gates."""
    found: list[str] = []
    for path, module in model.named_modules():
        for norm in getattr(module, "gate_norms", ()):
            full = f"{path}.{norm}" if path else norm
            if isinstance(model.get_submodule(full), _BatchNorm):
                found.append(f"{full}.weight")
    return tuple(found)


def _norms_before_readers(graph: Graph, group: str) -> tuple[str, ...] | str:
    """The last batch norms before each operator that reads the group, or the reason why there are none."""
    before: dict[int, frozenset[str] | None] = {}
    found: dict[str, None] = {}
    for index, operator in enumerate(graph.operators):
        read = [before[source] for source in operator.sources if source is not None and source in before]
        if group in names_in(*itertools.chain.from_iterable(operator.outputs)):
            before[index] = _norms_behind(graph, operator, group, read)
        elif any(norms is None for norms in read):
            return f"{operator.name} in {operator.module or 'the network'} reads it without a batch norm before it"
        else:
            found.update(dict.fromkeys(sorted(frozenset[str]().union(*(norms for norms in read if norms)))))
    return tuple(found) or "no layer reads it behind a batch norm"


def _norms_behind(
    graph: Graph, operator: Operator, group: str, read: Sequence[frozenset[str] | None]
) -> frozenset[str] | None:
    """The batch norms that gate what an operator returns; None if some way to it passes none.

    Args:
        graph: graph of the network.
        operator: an operator that returns the group's channels.
        group: name of the group.
        read: the same for each of the tensors with the group's channels that it reads.
    """
    if operator.name in BATCH_NORMS:
        scale = next((name for name in operator.weights[:1] if name in graph.parameters), None)
        if scale is not None and group in names_in(*graph.layouts[scale]):
            return frozenset({scale})
    known = [norms for norms in read if norms is not None]
    # one gated factor is enough: squeeze-and-excitation scales channels, and does not add to them
    if not known or (len(known) < len(read) and operator.name not in PRODUCTS):
        return None
    return frozenset[str]().union(*known)


def _without_gates(groups: Sequence[Group], reasons: Mapping[str, str]) -> str:
    shown = "; ".join(f"{group.name!r}: {reasons[group.name]}" for group in groups[:SHOWN])
    more = f"; and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    return (
        f"none of the {len(groups)} groups has gates, which are the scales of batch norms ({shown}{more}). Search a "
        "network with trainable batch norms behind its layers, or prune this one by a method that scores channels "
        "(magnitude, taylor, …)"
    )
