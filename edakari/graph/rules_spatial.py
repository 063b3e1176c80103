"""Rules of the operators in space: pooling, resizing, padding by reflection, pixel shuffle."""

from __future__ import annotations

import functools
import math

import torch

from edakari.graph.algebra import DimExpr, product, split
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.operators import ROWS, named
from edakari.graph.rules import rule

__all__: list[str] = []

POOLS = frozenset(named("pool"))
UNPOOLS = frozenset(named("unpool"))
UPSAMPLES = frozenset(named("upsample", "exact_upsample", "smooth_upsample"))


def spatial(count: int, tracer: AxisTracer, call: Call) -> Shape | list[Shape]:
    """Positions in the last `count` dimensions are mixed; the others stay the same."""
    dims = tracer.dims(call.args[0])
    for other in call.tensors()[1:]:
        _meet(tracer, dims[:-count], other, call.name in UNPOOLS)
    if call.name in POOLS:
        # an empty stride is the kernel size
        kernel = call.arg(1, "kernel_size")
        stride = call.arg(2, "stride") or kernel
        dilation = tuple(call.arg(4, "dilation", (1,) * count)) if "max" in call.name else (1,) * count
        tracer.set(kernel=tuple(kernel), stride=tuple(stride), padding=tuple(call.arg(3, "padding", (0,) * count)))
        tracer.set(dilation=dilation)
        if call.arg(5 if "max" in call.name else 4, "ceil_mode", False):
            tracer.set(ceil=True)
    if call.name in UPSAMPLES:
        scales = tuple(value for value in call.args[2:] if type(value) is float)
        if len(scales) == count:
            tracer.set(scales=scales)
    several = isinstance(call.out, tuple | list)
    first = call.out[0] if several else call.out
    tracer.pin(*dims[-count:], why="positions in space are mixed")
    out: Shape = [*dims[:-count], *first.shape[-count:]]
    return [list(out) for _ in call.out] if several else out


def _meet(tracer: AxisTracer, dims: Shape, other: torch.Tensor, indexed: bool) -> None:
    """Unify the dimensions of the sampled positions: of each image, or, for indices from pooling, of each channel."""
    where = tracer.dims(other)
    same = len(dims) if indexed else len(dims) - 1
    for left, right in zip(dims[:same], where[:same], strict=True):
        tracer.unify(left, right)
    tracer.pin(*where[same:], why="its entries are positions in space")


for _count in (1, 2, 3):
    rule(*(name for name, row in ROWS.items() if row.space == _count))(functools.partial(spatial, _count))


@rule("aten.pixel_shuffle")
def pixel_shuffle(tracer: AxisTracer, call: Call) -> Shape:
    """Channels are (channel, position in the block); the block becomes spatial positions."""
    dims = tracer.dims(call.args[0])
    halves = split(dims[-3], call.out.shape[-3])
    if halves is None:
        tracer.pin(dims[-3], why="its blocks run across the parts of the channels")
        return [*dims[:-3], *call.out.shape[-3:]]
    tracer.pin(halves[1], why="its positions become positions in space")
    return [*dims[:-3], product([halves[0]]), *call.out.shape[-2:]]


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(tracer: AxisTracer, call: Call) -> Shape:
    """Spatial positions become channels: (channel, position in the block)."""
    dims = tracer.dims(call.args[0])
    return [*dims[:-3], product([dims[-3], call.args[1] ** 2]), *call.out.shape[-2:]]


@rule("aten.im2col")
def im2col(tracer: AxisTracer, call: Call) -> Shape:
    """Channels become (channel, position in the window)."""
    x = tracer.dims(call.args[0])
    tracer.pin(*x[-2:], why="positions in space are mixed")
    window = math.prod(call.arg(1, "kernel_size"))
    channels: DimExpr = product([x[-3], window])
    return [*x[:-3], channels, call.out.shape[-1]]


@rule("aten.col2im")
def col2im(tracer: AxisTracer, call: Call) -> Shape:
    """The inverse of `im2col`: overlapping windows are summed, channel by channel."""
    x = tracer.dims(call.args[0])
    tracer.pin(x[-1], why="positions in space are mixed")
    halves = split(x[-2], call.out.shape[-3])
    if halves is None:
        tracer.pin(x[-2], why="its windows run across the parts of the channels")
        return [*x[:-2], *call.out.shape[-3:]]
    tracer.pin(halves[1], why="its positions become positions in space")
    return [*x[:-2], product([halves[0]]), *call.out.shape[-2:]]


@rule("aten.affine_grid_generator", "aten.cudnn_affine_grid_generator")
def affine_grid(tracer: AxisTracer, call: Call) -> Shape:
    """A grid of spatial positions is computed from the entries of a matrix."""
    theta = tracer.dims(call.args[0])
    tracer.pin(*theta[1:], why="its entries are a matrix that acts in space")
    return [theta[0], *call.out.shape[1:]]
