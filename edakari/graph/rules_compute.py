"""Rules of the operators that multiply and accumulate: convolution, linear, matrix products, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.graph.algebra import DimProduct, fresh, product, settle, size
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.operators import named
from edakari.graph.rules import function_rule, rule
from edakari.graph.rules_elementwise import broadcast

__all__: list[str] = []

LINEAR = frozenset(named("linear"))
ADDED = named("added_matrix_product", "added_batched_product")
"""Products that are added to the first argument."""


@rule(*named("convolution"))
def convolution(tracer: AxisTracer, call: Call) -> Shape:
    """Unify the input channels with the weight's; with groups, both are (group, channel in group)."""
    x, weight, bias = call.args[:3]
    transposed, groups = call.arg(6, "transposed", False), call.arg(8, "groups", 1)
    x_dims, w_dims = tracer.dims(x), tracer.dims(weight)
    inward, outward = w_dims[0] if transposed else w_dims[1], w_dims[1] if transposed else w_dims[0]
    for kernel in w_dims[2:]:
        settle(kernel)
    if groups > 1:
        group = fresh(groups)
        per_group = fresh(size(w_dims[0]) // groups)
        tracer.unify(w_dims[0], product([group, per_group]))
        tracer.note("groups", group)
        if size(w_dims[0]) > groups:
            tracer.mark(group, "group")
        if transposed:
            inward, outward = w_dims[0], product([group, w_dims[1]])
        else:
            inward = product([group, w_dims[1]])
    tracer.unify(x_dims[1], inward)
    if bias is not None:
        tracer.unify(tracer.dims(bias)[0], outward)
    space = x.dim() - 2
    names = ("stride", "padding", "dilation")
    tracer.set(**{name: _each(call.arg(index, name), space) for index, name in enumerate(names, start=3)})
    tracer.set(groups=groups, transposed=transposed, bias=bias is not None)
    if transposed:
        tracer.set(output_padding=_each(call.arg(7, "output_padding", 0), space))
    after = _space(tracer, call, x_dims[2:])
    passed = x_dims[2:] if transposed else after
    tracer.count(math.prod(weight.shape[2:]), x_dims[0], *passed, *w_dims[:2])
    return [x_dims[0], outward, *after]


def _space(tracer: AxisTracer, call: Call, before: Shape) -> Shape:
    """Spatial dimensions stay the same if kernels of one position pass over them."""
    x, weight = call.args[:2]
    still = call.out.shape[2:] == x.shape[2:]
    after: Shape = []
    for dim, kernel, length in zip(before, weight.shape[2:], call.out.shape[2:], strict=True):
        tracer.pin(*(() if still and kernel == 1 else (dim,)), why="positions in space are mixed")
        after.append(dim if still and kernel == 1 else length)
    return after


def _each(value: int | Sequence[int], space: int) -> tuple[int, ...]:
    """One setting for each spatial dimension; a single setting holds for all."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * space if len(given) == 1 else given


@function_rule("linear", [F.linear])
def linear(tracer: AxisTracer, call: Call) -> Shape:
    """Unify the last dimension with the weight's columns; it becomes the weight's rows."""
    x, weight, bias = call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias")
    x_dims, w_dims = tracer.dims(x), tracer.dims(weight)
    tracer.unify(x_dims[-1], w_dims[-1])
    rows = w_dims[0] if weight.dim() == 2 else 1
    if bias is not None and bias.dim():
        tracer.unify(tracer.dims(bias)[0], rows)
    tracer.set(bias=bias is not None)
    tracer.count(1, *x_dims[:-1], rows, w_dims[-1])
    return [*x_dims[:-1], rows] if weight.dim() == 2 else x_dims[:-1]


@rule(*named("matrix_product", "batched_product", "linear"), *ADDED)
def matrix_product(tracer: AxisTracer, call: Call) -> Shape:
    """Unify the inner dimensions and the batches; the outer dimensions stay."""
    if call.name in LINEAR:
        dims: Shape = linear(tracer, call)
        return dims
    added = call.name in ADDED
    left, right = call.args[1:3] if added else call.args[:2]
    a, b = tracer.dims(left), tracer.dims(right)
    tracer.unify(a[-1], b[-2] if len(b) > 1 else b[0])
    if len(a) == 3:
        tracer.unify(a[0], b[0])
        _mark_attention(tracer, left, right, a, b)
    tracer.produced.extend(
        [*(a[-2:-1] if tracer.is_weight(left) else []), *(b[1:][-1:] if tracer.is_weight(right) else [])]
    )
    out = [*a[:-1], *(b[-1:] if len(b) > 1 else [])]
    if added:
        broadcast(tracer, [tracer.dims(call.args[0]), out], call.out.shape)
    tracer.count(1, *out, a[-1])
    return out


@rule(*named("grouped_product"))
def grouped_product(tracer: AxisTracer, call: Call) -> Shape:
    """Products of several matrices, each with a run of the rows, such as those of experts."""
    a, b = tracer.dims(call.args[0]), tracer.dims(call.args[1])
    tracer.unify(a[-1], b[-2])
    dealt = {4: a[-1:], 5: [a[0], b[0] if len(b) == 3 else b[-1]]}.get(len(a) + len(b), [])
    tracer.pin(*dealt, why="its positions are assigned to groups by index")
    outer = [a[-2], b[-1]]
    if len(a) == len(b) == 3:
        tracer.unify(a[0], b[0])
        outer = [a[0], *outer]
    tracer.count(1, *outer, a[-1])
    return outer if call.out.dim() == len(outer) else [int(call.out.shape[0]), *outer]


def _mark_attention(tracer: AxisTracer, left: torch.Tensor, right: torch.Tensor, a: Shape, b: Shape) -> None:
    if tracer.is_weight(left) or tracer.is_weight(right):
        return
    tracer.mark(a[0], "head")
    for dim in (a[-1], a[-2], b[-1]):
        tracer.mark(dim, "head_dim")


@rule(*named("fused_attention"))
def fused_attention(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Attention as one kernel, which also returns what its backward pass needs."""
    mask = call.kwargs.get("attn_mask", call.arg(3, "attn_bias"))
    causal = call.arg(4 if "flash" in call.name else 6, "is_causal", False)
    given = {"attn_mask": mask if isinstance(mask, torch.Tensor) else None, "is_causal": causal}
    plain = Call(call.name, call.args[:3], given, None)
    rest = [out for out in call.out[1:] if isinstance(out, torch.Tensor)]
    return [attention(tracer, plain), *(list(out.shape) for out in rest)]


@function_rule("scaled_dot_product_attention", [F.scaled_dot_product_attention])
def attention(tracer: AxisTracer, call: Call) -> Shape:
    """Unify queries and keys in the head dimension, and heads and batches; grouped queries are (key head, repeat)."""
    q, k, v = (tracer.dims(call.arg(i, name)) for i, name in enumerate(("query", "key", "value")))
    mask = call.arg(3, "attn_mask")
    tracer.unify(q[-1], k[-1])
    tracer.unify(k[-2], v[-2])
    if call.arg(5, "is_causal", False):
        tracer.pin(q[-2], k[-2], why="the keys that a query sees depend on their index")
    for a, b, c in zip(q[:-2], k[:-2], v[:-2], strict=True):
        tracer.unify(b, c)
        repeat = size(a) // size(b)
        tracer.unify(a, b if repeat == 1 else DimProduct((b, fresh(repeat))))
    for dims in (q, k, v):
        tracer.mark(dims[-1], "head_dim")
        if len(dims) > 3:
            tracer.mark(dims[-3], "head")
    if isinstance(mask, torch.Tensor):
        scores: Shape = [*q[:-1], k[-2]]
        broadcast(tracer, [tracer.dims(mask), scores], [size(dim) for dim in scores])
    tracer.count(1, *q[:-1], k[-2], q[-1])
    tracer.count(1, *q[:-1], k[-2], v[-1])
    return [*q[:-1], v[-1]]


@function_rule("bilinear", [F.bilinear])
def bilinear(tracer: AxisTracer, call: Call) -> Shape:
    """Unify the last dimensions of both inputs with those of the weight; its first dimension is the output's."""
    left, right, weight, bias = (call.arg(i, name) for i, name in enumerate(("input1", "input2", "weight", "bias")))
    a, b, w_dims = tracer.dims(left), tracer.dims(right), tracer.dims(weight)
    tracer.unify(a[-1], w_dims[1])
    tracer.unify(b[-1], w_dims[2])
    for one, other in zip(a[:-1], b[:-1], strict=True):
        tracer.unify(one, other)
    if bias is not None:
        tracer.unify(tracer.dims(bias)[0], w_dims[0])
    tracer.set(bias=bias is not None)
    tracer.count(1, *a[:-1], *w_dims)
    return [*a[:-1], w_dims[0]]
