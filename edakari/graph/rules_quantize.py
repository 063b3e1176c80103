"""Rules of fake quantisation, in networks that are trained for integer arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edakari.graph.algebra import size
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.rules import function_rule, rule

__all__: list[str] = []


@rule(
    "aten.fake_quantize_per_tensor_affine",
    "aten.fake_quantize_per_tensor_affine_cachemask",
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "aten._fake_quantize_learnable_per_tensor_affine",
)
def per_tensor(tracer: AxisTracer, call: Call) -> Shape | list[Shape]:
    """One scale for all positions."""
    dims = tracer.dims(call.args[0])
    for other in call.tensors()[1:]:
        tracer.dims(other)
    return [list(dims) for _ in call.out] if isinstance(call.out, tuple | list) else list(dims)


@rule(
    "aten.fake_quantize_per_channel_affine",
    "aten.fake_quantize_per_channel_affine_cachemask",
    "aten._fake_quantize_learnable_per_channel_affine",
)
def per_channel(tracer: AxisTracer, call: Call) -> Shape | list[Shape]:
    """A scale and a zero point for each position of one dimension."""
    dims = tracer.dims(call.args[0])
    _meet(tracer, dims, call.args[3], call.args[1:3])
    return [list(dims) for _ in call.out] if isinstance(call.out, tuple | list) else list(dims)


def _meet(tracer: AxisTracer, dims: Shape, along: int, tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        described = tracer.dims(tensor)
        # an observer that has seen no data holds no or one value
        if described and size(described[0]) == size(dims[along]):
            tracer.unify(dims[along], described[0])


@function_rule("fused_moving_avg_obs_fake_quant", [torch.fused_moving_avg_obs_fake_quant])
def observed(tracer: AxisTracer, call: Call) -> Shape:
    """Observer and fake quantisation in one: range, scale and zero point are per tensor or per position."""
    names = ("running_min", "running_max", "scale", "zero_point")
    along, each = call.arg(10, "ch_axis"), call.arg(11, "per_row_fake_quant", False)
    dims = tracer.dims(call.arg(0, "self"))
    tensors = tuple(call.arg(index, name) for index, name in enumerate(names, start=3))
    if each:
        _meet(tracer, dims, along, tensors)
    else:
        for tensor in tensors:
            tracer.dims(tensor)
    return list(dims)


@rule("aten.resize_")
def resize(tracer: AxisTracer, call: Call) -> Shape | None:
    """Observers resize their buffers to the observed shape, which they have already, except at first."""
    dims = tracer.dims(call.args[0])
    if [size(dim) for dim in dims] == list(call.args[1]):
        return list(dims)
    return None if any(not isinstance(dim, int) for dim in dims) else list(call.out.shape)
