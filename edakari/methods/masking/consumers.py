"""Consumers and producers of groups: the weights and norms that read and write them.

Methods that mask or score channels need this.

A convolution or linear layer reads the groups on its weight's input dimension and writes those on its output dimension.
Depthwise convolutions and batch norms act on each channel alone: they neither read nor write the group. A layer norm
reads the dimensions of its statistics. Any other operator that mixes the positions of a group (attention over the head
dimension, a group norm, a sum over channels) closes it: no mask on weights can replace a cut there.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence

from edakari.core.graph import Graph, Operator
from edakari.core.layout import Layout, axes
from edakari.graph.operators import BATCH_NORMS, mixed_by, named

__all__ = [
    "Layer",
    "LayerNormConsumer",
    "Structure",
    "WeightConsumer",
    "WeightProducer",
    "layers_of",
    "names_in",
    "structure_of",
]

CONVOLUTIONS = frozenset(named("convolution"))
LINEARS = frozenset(named("linear_function", "linear"))
PRODUCTS = frozenset(named("matrix_product", "added_matrix_product"))
TRANSPOSES = frozenset(named("permutation", "transposition"))
LAYER_NORMS = frozenset(named("layer_norm"))
CONSTANTS = frozenset(named("constant"))


@dc.dataclass(frozen=True, slots=True)
class WeightConsumer:
    """A weight that reads groups.

    Args:
        weight: name of the parameter.
        dim: the dimension of the weight that reads them.
        caller: dotted path of the module that uses it.
        norm: weight of the batch norm right after the layer; empty if there is none.
        norm_caller: dotted path of the module that uses the batch norm.
    """

    weight: str
    dim: int
    caller: str
    norm: str = ""
    norm_caller: str = ""


@dc.dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer.

    Args:
        weight: name of the parameter.
        caller: dotted path of the module that uses it.
        normed: whether a batch norm comes right after it.
        last: whether its outputs belong to no group, as logits do.
    """

    weight: str
    caller: str
    normed: bool
    last: bool


@dc.dataclass(frozen=True, slots=True)
class WeightProducer:
    """A weight that writes groups.

    Args:
        weight: name of the parameter.
        dim: dimension of the weight that writes them.
        norm: names of weight and bias of the batch norm right after the layer; empty if there is none.
    """

    weight: str
    dim: int
    norm: tuple[str, ...] = ()


@dc.dataclass(frozen=True, slots=True)
class LayerNormConsumer:
    """A layer norm over groups.

    Args:
        module: dotted path of the module.
        layout: layout of the norm's weight.
        dim: normalised dimension of the module's input, counted from the end (negative).
    """

    module: str
    layout: Layout
    dim: int


@dc.dataclass(frozen=True)
class Structure:
    """All consumers and producers of a network's groups.

    Args:
        consumers: weights that read groups.
        producers: weights that write groups.
        layer_norms: layer norms over groups.
        closed: groups whose positions another operator mixes, and the name of that operator.
    """

    consumers: tuple[WeightConsumer, ...]
    producers: tuple[WeightProducer, ...]
    layer_norms: tuple[LayerNormConsumer, ...]
    closed: Mapping[str, str]


def structure_of(graph: Graph) -> Structure:
    """Find the weights and norms that read and write the groups of a network, in order of use.

    Args:
        graph: graph of the network.

    Returns:
        The structure. If a group is read and not closed, masking its consumers equals cutting it.
    """
    consumers: dict[WeightConsumer, None] = {}
    producers: dict[WeightProducer, None] = {}
    layer_norms: list[LayerNormConsumer] = []
    closed: dict[str, str] = {}
    for index, operator in enumerate(graph.operators):
        layer = _layer(graph, index)
        norm = _layer_norm(graph, operator)
        if layer is not None:
            weight, dim, caller = layer
            behind = _norm_behind(graph, index)
            if names_in(graph.layouts[weight][dim]):
                norm_of = (behind.weights[0], behind.module) if behind else ("", "")
                consumers[WeightConsumer(weight, dim, caller, *norm_of)] = None
            # a depthwise kernel acts on each channel alone
            if operator.settings.get("groups", 1) == 1 and names_in(graph.layouts[weight][1 - dim]):
                producers[WeightProducer(weight, 1 - dim, behind.weights[:2] if behind else ())] = None
        elif norm is not None:
            layer_norms.append(norm)
        else:
            for name in _mixed(operator):
                closed.setdefault(name, f"{operator.name} in {operator.module or 'the network'}")
    closed.update(_read_in_two_ways(graph, tuple(consumers)))
    return Structure(tuple(consumers), tuple(producers), tuple(layer_norms), closed)


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """Find the convolutions and linear layers of a network, in order of use, each weight once.

    Args:
        graph: graph of the network.
    """
    found: dict[str, Layer] = {}
    for index, operator in enumerate(graph.operators):
        layer = _layer(graph, index)
        if layer is not None:
            weight, dim, caller = layer
            last = operator.settings.get("groups", 1) == 1 and not names_in(graph.layouts[weight][1 - dim])
            found.setdefault(weight, Layer(weight, caller, _norm_behind(graph, index) is not None, last))
    return tuple(found.values())


def names_in(*layouts: Layout) -> tuple[str, ...]:
    """Return the names of the groups that appear in layouts, each once."""
    return tuple(dict.fromkeys(axis.group for layout in layouts for axis in axes(layout)))


def _layer(graph: Graph, index: int) -> tuple[str, int, str] | None:
    """Weight, reading dimension and caller of a convolution or linear layer; None if the weight is no parameter."""
    operator = graph.operators[index]
    if operator.name in CONVOLUTIONS | LINEARS:
        if not operator.weights or graph.layouts[operator.weights[0]] != operator.inputs[1]:
            return None
        return operator.weights[0], 0 if operator.settings.get("transposed") else 1, operator.module
    if operator.name in PRODUCTS:
        # a linear layer that torch decomposed: an earlier operator transposed the weight
        for before in reversed(graph.operators[:index]):
            if before.module != operator.module or before.name not in TRANSPOSES or not before.weights:
                continue
            if before.outputs[0] == operator.inputs[-1] and len(before.outputs[0]) == 2:
                return before.weights[0], 1, operator.module
    return None


def _norm_behind(graph: Graph, index: int) -> Operator | None:
    """The batch norm right after a layer; None if there is none."""
    made = graph.operators[index].outputs[0]
    for operator in graph.operators[index + 1 :]:
        if operator.name in CONSTANTS:
            continue
        own = operator.name in BATCH_NORMS and operator.inputs[0] == made and len(operator.weights) >= 2
        return operator if own and {*operator.weights[:2]} <= {*graph.parameters} else None
    return None


def _layer_norm(graph: Graph, operator: Operator) -> LayerNormConsumer | None:
    """A layer norm over one dimension that is a module of its own; None for anything else."""
    if operator.name not in LAYER_NORMS or not operator.weights or not names_in(*operator.inputs[0]):
        return None
    dims = graph.layouts[operator.weights[0]]
    calls = [call for call in graph.calls if call.module == operator.module]
    if len(dims) != 1 or not calls or not calls[0].inputs:
        return None
    shape = calls[0].inputs[0]
    indices = [index for index, layout in enumerate(shape) if layout == dims[0]]
    if len(indices) != 1 or operator.weights[0].rpartition(".")[0] != operator.module:
        return None
    return LayerNormConsumer(operator.module, dims[0], indices[0] - len(shape))


def _mixed(operator: Operator) -> Iterator[str]:
    """The groups whose positions an operator mixes."""
    inputs = operator.inputs
    match mixed_by(operator.name):
        case "channels":
            yield from names_in(inputs[0][1])
        case "last":
            yield from names_in(inputs[0][-1])
        case "inner":
            yield from names_in(inputs[-2][-1])
        case "attention":
            yield from names_in(inputs[0][-1], inputs[1][-2])
        case "along":
            yield from names_in(inputs[0][operator.settings["along"]])
        case "reduced":
            left = names_in(*operator.outputs[0])
            yield from (name for name in names_in(*inputs[0]) if name not in left)
        case "all but channels":
            yield from names_in(*(layout for index, layout in enumerate(inputs[0]) if index != 1))
        case "all":
            yield from names_in(*(layout for dims in inputs for layout in dims))


def _read_in_two_ways(graph: Graph, consumers: Sequence[WeightConsumer]) -> dict[str, str]:
    """Groups of weights that are used along both dimensions, or from outside of their module."""
    found = {}
    dims: dict[str, set[int]] = {}
    for read in consumers:
        dims.setdefault(read.weight, set()).add(read.dim)
    for read in consumers:
        inside = not read.caller or read.weight.startswith(read.caller + ".")
        if len(dims[read.weight]) > 1 or not inside:
            for name in names_in(graph.layouts[read.weight][read.dim]):
                found[name] = f"{read.weight}, which is used in two ways"
    return found
