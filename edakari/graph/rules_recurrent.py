"""Rules of recurrent layers, which torch runs as one function over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from edakari.graph.algebra import DimExpr, concat, fresh, product, size
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.rules import function_rule

__all__ = ["layers_of", "weights_at"]


def weights_at(args: Sequence[Any]) -> int:
    """Index of the list of weights: it follows the input, lengths if the input is packed, and the state."""
    return next(index for index, value in enumerate(args) if isinstance(value, list))


def layers_of(args: Sequence[Any]) -> Iterator[list[torch.Tensor]]:
    """The weights of each layer and direction: from the input, from the state, both biases if any, the projection."""
    index = weights_at(args)
    weights, layers = args[index], args[index + 2]
    directions = 2 if args[index + 5] else 1
    each = len(weights) // (layers * directions)
    for start in range(0, len(weights), each):
        yield weights[start : start + each]


@function_rule("rnn", [torch.rnn_tanh, torch.rnn_relu, torch.gru, torch.lstm])
def recurrent(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Gates times hidden positions; a layer has one hidden width for all its levels and directions."""
    args = call.args
    index = weights_at(args)
    x = tracer.dims(args[0])
    given = args[index - 1]
    states = [tracer.dims(state) for state in (given if isinstance(given, tuple) else (given,))]
    directions = 2 if args[index + 5] else 1
    layers = list(layers_of(args))
    projected = len(layers[0]) % 2 == 1
    hidden = fresh(int(layers[0][-1].shape[1] if projected else layers[0][1].shape[1]))
    shown = fresh(int(layers[0][1].shape[1])) if projected else hidden
    tracer.mark(hidden, "hidden")
    if projected:
        tracer.pin(hidden, shown, why="torch recognises a projection by its smaller width")
    for level in range(0, len(layers), directions):
        for layer in layers[level : level + directions]:
            _layer(tracer, layer, x[-1], hidden, shown)
        x = [*x[:-1], concat([shown] * directions)]
    for state, width in zip(states, (shown, hidden), strict=False):
        tracer.unify(state[-1], width)
    steps = math.prod(args[0].shape[:-1])
    for layer in layers:
        for weight in (each for each in layer if each.dim() == 2):
            tracer.count(steps, *tracer.dims(weight))
    return [x, *([*state[:-1], width] for state, width in zip(states, (shown, hidden), strict=False))]


def _layer(
    tracer: AxisTracer, layer: Sequence[torch.Tensor], entering: DimExpr, hidden: DimExpr, shown: DimExpr
) -> None:
    projection = layer[-1] if len(layer) % 2 else None
    gates = product([size(tracer.dims(layer[0])[0]) // size(hidden), hidden])
    tracer.unify(tracer.dims(layer[0])[1], entering)
    tracer.unify(tracer.dims(layer[1])[1], shown)
    for tensor in layer if projection is None else layer[:-1]:
        tracer.unify(tracer.dims(tensor)[0], gates)
    if projection is not None:
        tracer.unify(tracer.dims(projection)[0], shown)
        tracer.unify(tracer.dims(projection)[1], hidden)
