"""Rules of the operators that act position by position, and of the norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.graph.algebra import fresh, product, size
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.operators import named
from edakari.graph.rules import function_rule, rule

__all__ = ["broadcast"]


def broadcast(tracer: AxisTracer, operands: Sequence[Shape], shape: Sequence[int]) -> Shape:
    """Align dimensions from the right and unify those that are not broadcast.

    Args:
        tracer: tracer of the forward pass.
        operands: dimensions of each operand.
        shape: shape of the result.

    Returns:
        Dimensions of the result.
    """
    result: Shape = []
    for position in range(-len(shape), 0):
        length = shape[position]
        aligned = [dims[position] for dims in operands if len(dims) >= -position and size(dims[position]) == length]
        if length == 1 or not aligned:
            result.append(length)
            continue
        for other in aligned[1:]:
            tracer.unify(aligned[0], other)
        result.append(aligned[0])
    return result


@rule(
    "pointwise",
    *named("pointwise", "activation", "weighted_activation", "choice", "comparison", "dropout", "draw"),
    *named("copy", "reference", "conversion", "write"),
)
def pointwise(tracer: AxisTracer, call: Call) -> Shape | list[Shape]:
    """Unify aligned dimensions, which hold the same positions."""
    first = call.out[0] if isinstance(call.out, tuple | list) else call.out
    dims = broadcast(tracer, [tracer.dims(tensor) for tensor in call.tensors()], first.shape)
    if call.kwargs.get("alpha", 1) != 1:
        tracer.set(alpha=call.kwargs["alpha"])
    return [dims for _ in call.out] if isinstance(call.out, tuple | list) else dims


@rule(*named("softmax"))
def softmax(tracer: AxisTracer, call: Call) -> Shape:
    """One dimension is mixed, and all stay."""
    dims = list(tracer.dims(call.args[0]))
    tracer.set(along=call.args[1] % max(len(dims), 1))
    return dims


@rule(*named("constant", "random"))
def constant(tracer: AxisTracer, call: Call) -> Shape:
    """A constant, a random value or uninitialised memory: its positions follow those they are joined to."""
    return [fresh(length) for length in call.out.shape]


@rule(*named("like", "random_like"))
def like(tracer: AxisTracer, call: Call) -> Shape:
    """A new tensor with the shape of another one."""
    return list(tracer.dims(call.args[0]))


@rule(*named("fill"))
def fill(tracer: AxisTracer, call: Call) -> Shape:
    """One value everywhere."""
    return list(tracer.dims(call.args[0]))


@rule(*named("batch_norm", "batch_norm_variant"))
def batch_norm(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Unify channels with scale, shift and statistics; with its own statistics, each channel mixes the rest."""
    x = tracer.dims(call.args[0])
    channels = x[1]
    norm = (tracer.record.module, "num_features")
    if norm not in tracer.notes and not any(isinstance(tensor, torch.Tensor) for tensor in call.args[1:5]):
        tracer.note("num_features", channels)
    for tensor in call.args[1:5]:
        if isinstance(tensor, torch.Tensor):
            tracer.unify(channels, tracer.dims(tensor)[0])
    return [list(x), *([channels] if list(o.shape) == [size(channels)] else list(o.shape) for o in call.out[1:])]


@function_rule("batch_norm", [torch.batch_norm])
def batch_norm_function(tracer: AxisTracer, call: Call) -> Shape:
    """Return the operator's first output."""
    outputs: list[Shape] = batch_norm(tracer, Call(call.name, call.args, call.kwargs, (call.out,)))
    return outputs[0]


@rule(*named("layer_norm", "rms_norm", "composite_norm"))
def layer_norm(tracer: AxisTracer, call: Call) -> list[Shape] | Shape:
    """Unify the last dimensions with scale and shift (an RMS norm has no shift); their statistics mix them."""
    x = tracer.dims(call.args[0])
    normalized = x[-len(call.args[1]) :]
    _norm_parameters(tracer, normalized, call.args[2:4])
    for position, dim in enumerate(normalized):
        tracer.mark(dim, "normalized")
        tracer.note(f"normalized_shape.{position}", dim)
    if not isinstance(call.out, tuple | list):
        return list(x)
    statistics = [*x[: -len(normalized)], *[1] * len(normalized)]
    return [list(x), *(_statistics(o, statistics) for o in call.out[1:])]


def _statistics(output: torch.Tensor, expected: Shape) -> Shape:
    """Dimensions of a norm's statistics; some kernels give them another shape, which nothing reads."""
    return list(expected) if [size(dim) for dim in expected] == list(output.shape) else list(output.shape)


def _norm_parameters(tracer: AxisTracer, dims: Shape, tensors: Sequence[torch.Tensor | None]) -> None:
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            for left, right in zip(dims, tracer.dims(tensor), strict=True):
                tracer.unify(left, right)


@rule(*named("group_norm"), "aten.group_norm")
def group_norm(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Channels are (group, channel in group), and statistics mix within a group."""
    x = tracer.dims(call.args[0])
    groups, group = call.args[6], x[1]
    if 1 < groups < size(x[1]):
        group = fresh(groups)
        tracer.unify(x[1], product([group, fresh(size(x[1]) // groups)]))
        tracer.note("num_groups", group)
        tracer.mark(group, "group")
    elif groups > 1:
        tracer.note("num_groups", x[1])
    tracer.note("num_channels", x[1])
    _norm_parameters(tracer, [x[1]], call.args[1:3])
    return [list(x), *(_statistics(o, [x[0], group if groups > 1 else 1]) for o in call.out[1:])]


@rule(*named("weight_norm"))
def weight_norm(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Unify direction and length of a weight in the dimension that has lengths; the norm mixes the others."""
    direction, length = tracer.dims(call.args[0]), tracer.dims(call.args[1])
    along = call.arg(2, "dim", 0)
    tracer.unify(direction[along], length[along])
    return [list(direction), list(length)]


@function_rule("local_response_norm", [F.local_response_norm])
def local_response_norm(tracer: AxisTracer, call: Call) -> Shape:
    """Pin the channels: each channel is divided by the values of its neighbours, so these must stay."""
    dims = list(tracer.dims(call.arg(0, "input")))
    tracer.pin(dims[1], why="it divides a channel by its neighbours, and removing channels changes the neighbours")
    return dims
