"""Finds, for each layer, the module input or output where its activation can be hooked."""

from __future__ import annotations

import collections
import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from edakari.core.graph import Graph, Operator
from edakari.core.layout import Layout, axes
from edakari.graph.operators import BATCH_NORMS, Trait, having, named
from edakari.graph.residuals import residual_sums

__all__ = ["LayerOutput", "layer_outputs_of", "sums_into"]

LAYERS = having(Trait.LAYER)
GATES = frozenset(named("gate"))
ACTIVATIONS = frozenset(named("gate", "activation", "weighted_activation"))
TURNS = frozenset(named("permutation", "transposition"))


@dc.dataclass(frozen=True, slots=True)
class LayerOutput:
    """The output of a layer, after its batch normalisation and activation if these read nothing else.

    For a layer that writes into a residual sum, this is the tensor before the sum (its activation comes after it).

    Args:
        weight: name of the layer's weight.
        operator: index in `Graph.operators` of the operator that made the tensor.
        layouts: layout of each dimension of the tensor.
        module: dotted path of the module that receives or returns the tensor.
        call: index of that module's call in a forward pass.
        side: whether the tensor is among the module's inputs or outputs.
        index: index of the tensor among these.
    """

    weight: str
    operator: int
    layouts: tuple[Layout, ...]
    module: str
    call: int
    side: Literal["inputs", "outputs"]
    index: int

    def dims(self) -> dict[str, int]:
        """Groups in the tensor, and the first dimension in which each appears; without the batch."""
        found: dict[str, int] = {}
        for dim, layout in enumerate(self.layouts[1:], start=1):
            for axis in axes(layout):
                found.setdefault(axis.group, dim)
        return found


def layer_outputs_of(graph: Graph) -> tuple[LayerOutput, ...]:
    """Find the outputs of all layers that produce groups, in order.

    A layer has no output here if its tensor never passes from one module to another. A gate has none either: the output
    of a sigmoid is no feature.

    Args:
        graph: graph of the network.
    """
    readers = _readers(graph)
    seams = _seams(graph)
    found = []
    for index, operator in enumerate(graph.operators):
        weights = [name for name in operator.weights if len(graph.layouts[name]) > 1]
        if (
            operator.name not in LAYERS
            or len(weights) > 1
            or not any(True for d in operator.outputs[0] for _ in axes(d))
        ):
            continue
        chain = list(_chain(graph, readers, index))
        if graph.operators[chain[-1]].name in GATES:
            continue
        weight = weights[0] if weights else _turned(graph, operator)
        seen = next((each for each in reversed(chain) if each in seams), None)
        if weight and seen is not None:
            found.append(LayerOutput(weight, seen, graph.operators[seen].outputs[0], *seams[seen]))
    return tuple(found)


def sums_into(graph: Graph) -> dict[str, int]:
    """Count the residual sums that each group is added to; groups without any are left out."""
    features: set[int | None] = {None}
    for index, operator in enumerate(graph.operators):
        if features.intersection(operator.sources):
            features.add(index)
    sums = (graph.operators[index] for index in residual_sums(graph.operators))
    layouts = (layout for each in sums if features.issuperset(each.sources) for layout in each.outputs[0])
    return dict(collections.Counter(axis.group for layout in layouts for axis in axes(layout)))


def _readers(graph: Graph) -> Mapping[int, Sequence[int]]:
    readers: dict[int, list[int]] = collections.defaultdict(list)
    for index, operator in enumerate(graph.operators):
        for source in operator.sources:
            if source is not None:
                readers[source].append(index)
    return readers


def _seams(graph: Graph) -> dict[int, tuple[str, int, Literal["inputs", "outputs"], int]]:
    """For each operator whose tensor passes between modules, one module that returns it, or else receives it."""
    given: dict[int, tuple[str, int, Literal["inputs", "outputs"], int]] = {}
    got: dict[int, tuple[str, int, Literal["inputs", "outputs"], int]] = {}
    count: collections.Counter[str] = collections.Counter()
    for call in graph.calls:
        for index, source in enumerate(call.output_sources):
            if source is not None:
                given[source] = (call.module, count[call.module], "outputs", index)
        for index, source in enumerate(call.input_sources):
            if source is not None:
                got.setdefault(source, (call.module, count[call.module], "inputs", index))
        count[call.module] += 1
    return {**got, **given}


def _chain(graph: Graph, readers: Mapping[int, Sequence[int]], index: int) -> Iterator[int]:
    """A layer, its batch normalisation and its activation, up to the first tensor with several readers."""
    yield index
    form = graph.operators[index].outputs[0]
    for kinds in (BATCH_NORMS, ACTIVATIONS):
        after = readers.get(index, ())
        behind = graph.operators[after[0]] if len(after) == 1 else None
        if behind is not None and behind.name in kinds and behind.outputs[0] == form:
            index = after[0]
            yield index


def _turned(graph: Graph, operator: Operator) -> str:
    """Name of the parameter behind a weight that was transposed before its use; empty if there is none."""
    for source in operator.sources:
        before = graph.operators[source] if source is not None else None
        if before is not None and before.name in TURNS and before.weights:
            return before.weights[0]
    return ""
