"""Finds the prediction layers of a network: the last layers before its outputs."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from edakari.core.graph import Graph, Operator
from edakari.core.layout import extent
from edakari.graph.operators import Trait, having, named
from edakari.graph.tracing import fixed_graph, training_graph

__all__ = ["PredictionLayers", "prediction_layers"]

LAYERS = having(Trait.LAYER)
OTHERS = frozenset(
    (
        *named("batched_product", "added_batched_product", "grouped_product", "bilinear", "recurrent"),
        *named("attention", "fused_attention", "flex_attention", "deformable_convolution"),
    )
)
"""Operators that compute features too, so that the search ends there, but whose weights no new layer can replace."""


@dc.dataclass(frozen=True)
class PredictionLayers:
    """The last layers before the outputs of a network.

    Args:
        outputs: for each layer's dotted path, its number of outputs; in order of the forward pass.
        unread: dotted paths of modules whose parameters the network reads neither in evaluation nor in training, as far
            as the code for training runs on the example.
    """

    outputs: Mapping[str, int]
    unread: frozenset[str]


def prediction_layers(model: nn.Module, example: Any) -> PredictionLayers:
    """Find the last layers before the outputs of a network, in evaluation and in training.

    The search goes back from every output through operators without weights, such as resizing, sums and softmax.
    Auxiliary classifiers that only run in training are found, too.

    Args:
        model: network.
        example: input of the network.

    Raises:
        ModelError: the forward pass fails on the example.
    """
    graph = fixed_graph(model, example)
    found, unread = _last_layers(graph), _unread(graph)
    if unread:
        training = training_graph(model, example)
        if training is not None:
            found |= _last_layers(training)
            unread &= _unread(training)
    return PredictionLayers(found, frozenset(name.rpartition(".")[0] for name in unread))


def _unread(graph: Graph) -> set[str]:
    return set(graph.parameters) - {name for operator in graph.operators for name in operator.weights}


def _last_layers(graph: Graph) -> dict[str, int]:
    called = [call for call in graph.calls if call.module == ""]
    waiting = [source for call in called for source in call.output_sources if source is not None]
    seen: set[int] = set()
    weights: dict[int, str] = {}
    while waiting:
        index = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        operator = graph.operators[index]
        weight = next(_multiplied(graph, operator), None)
        if weight is not None:
            weights[index] = weight
        elif operator.name not in LAYERS | OTHERS:
            waiting += [source for source in operator.sources if source is not None]
    return {weight.rpartition(".")[0]: _outputs(graph, index) for index, weight in sorted(weights.items())}


def _multiplied(graph: Graph, operator: Operator) -> Iterator[str]:
    """Yield the matrices and kernels that a layer's operator multiplies by, also those that were transposed first."""
    if operator.name not in LAYERS:
        return
    sources = [graph.operators[source] for source in operator.sources if source is not None]
    for reader in (operator, *(each for each in sources if not each.sources)):
        yield from (name for name in reader.weights if len(graph.layouts[name]) > 1)


def _outputs(graph: Graph, index: int) -> int:
    """Number of channels of a layer's output; features of a linear layer are in the last dimension."""
    operator = graph.operators[index]
    dims = operator.outputs[0]
    return int(extent(dims[1 if "conv" in operator.name else -1], {}))
