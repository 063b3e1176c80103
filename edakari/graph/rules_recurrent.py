"""Rules of recurrent layers, which torch runs as one function over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from edakari.graph.axes import Expression, concat, fresh, product, size
from edakari.graph.flow import Call, Dims, Flow
from edakari.graph.rules import function_rule

__all__ = ["layers_of", "weights_at"]


def weights_at(args: Sequence[Any]) -> int:
    """Where the list of weights stands: before it come the input, lengths if it is packed, and the state."""
    return next(place for place, value in enumerate(args) if isinstance(value, list))


def layers_of(args: Sequence[Any]) -> Iterator[list[torch.Tensor]]:
    """The weights of each layer and direction: from the input, from the state, both biases if any, the projection."""
    place = weights_at(args)
    weights, layers = args[place], args[place + 2]
    directions = 2 if args[place + 5] else 1
    each = len(weights) // (layers * directions)
    for start in range(0, len(weights), each):
        yield weights[start : start + each]


@function_rule("rnn", [torch.rnn_tanh, torch.rnn_relu, torch.gru, torch.lstm])
def recurrent(flow: Flow, call: Call) -> list[Dims]:
    """Gates times hidden positions; a layer has one hidden width for all its levels and directions."""
    args = call.args
    place = weights_at(args)
    x = flow.dims(args[0])
    given = args[place - 1]
    states = [flow.dims(state) for state in (given if isinstance(given, tuple) else (given,))]
    directions = 2 if args[place + 5] else 1
    layers = list(layers_of(args))
    projected = len(layers[0]) % 2 == 1
    hidden = fresh(int(layers[0][-1].shape[1] if projected else layers[0][1].shape[1]))
    shown = fresh(int(layers[0][1].shape[1])) if projected else hidden
    flow.mark(hidden, "hidden")
    if projected:
        flow.pin(hidden, shown, why="torch knows a projection by its being narrower")
    for level in range(0, len(layers), directions):
        for layer in layers[level : level + directions]:
            _layer(flow, layer, x[-1], hidden, shown)
        x = [*x[:-1], concat([shown] * directions)]
    for state, width in zip(states, (shown, hidden), strict=False):
        flow.unify(state[-1], width)
    steps = math.prod(args[0].shape[:-1])
    for layer in layers:
        for weight in (each for each in layer if each.dim() == 2):
            flow.count(steps, *flow.dims(weight))
    return [x, *([*state[:-1], width] for state, width in zip(states, (shown, hidden), strict=False))]


def _layer(
    flow: Flow, layer: Sequence[torch.Tensor], entering: Expression, hidden: Expression, shown: Expression
) -> None:
    projection = layer[-1] if len(layer) % 2 else None
    gates = product([size(flow.dims(layer[0])[0]) // size(hidden), hidden])
    flow.unify(flow.dims(layer[0])[1], entering)
    flow.unify(flow.dims(layer[1])[1], shown)
    for tensor in layer if projection is None else layer[:-1]:
        flow.unify(flow.dims(tensor)[0], gates)
    if projection is not None:
        flow.unify(flow.dims(projection)[0], shown)
        flow.unify(flow.dims(projection)[1], hidden)
