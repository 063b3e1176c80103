"""Rules of torchvision's region operators and deformable convolution, and of Fourier transforms."""

from __future__ import annotations

import math

from edakari.graph.algebra import DimExpr, fresh, product, size, split
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.operators import named
from edakari.graph.rules import rule

__all__: list[str] = []


@rule(*named("deformable_convolution"))
def deform_conv(tracer: AxisTracer, call: Call) -> Shape:
    """A convolution whose kernel each group of offsets moves separately: channels are (offset group, channel)."""
    x, weight, offset, mask, bias = call.args[:5]
    groups, offset_groups, masked = call.args[11:14]
    x_dims, w_dims = tracer.dims(x), tracer.dims(weight)
    window = math.prod(weight.shape[2:])
    group = fresh(groups)
    if groups > 1:
        tracer.unify(w_dims[0], product([group, fresh(size(w_dims[0]) // groups)]))
        tracer.note("groups", group)
        if size(w_dims[0]) > groups:
            tracer.mark(group, "group")
    tracer.unify(x_dims[1], product([group, w_dims[1]]))
    moved = fresh(offset_groups)
    if offset_groups > 1:
        tracer.unify(x_dims[1], product([moved, fresh(size(x_dims[1]) // offset_groups)]))
    _meet_offsets(tracer, tracer.dims(offset), x_dims[0], product([moved, 2 * window]))
    if masked:
        _meet_offsets(tracer, tracer.dims(mask), x_dims[0], product([moved, window]))
    tracer.unify(tracer.dims(bias)[0], w_dims[0])
    tracer.pin(*x_dims[2:], *w_dims[2:], why="positions in space are mixed")
    space = [int(length) for length in call.out.shape[2:]]
    tracer.count(window, x_dims[0], *space, *w_dims[:2])
    return [x_dims[0], w_dims[0], *space]


def _meet_offsets(tracer: AxisTracer, dims: Shape, batch: DimExpr, channels: DimExpr) -> None:
    tracer.unify(dims[0], batch)
    tracer.unify(dims[1], channels)
    tracer.pin(*dims[2:], why="positions in space are mixed")


@rule("torchvision.roi_align", "torchvision.roi_pool")
def regions(tracer: AxisTracer, call: Call) -> Shape | list[Shape]:
    """Each region becomes an image of fixed size; channels stay the same."""
    x, rois = tracer.dims(call.args[0]), tracer.dims(call.args[1])
    tracer.pin(x[0], *x[2:], *rois, why="regions are found by indices of images and positions in space")
    several = isinstance(call.out, tuple | list)
    shape = (call.out[0] if several else call.out).shape
    dims: Shape = [shape[0], x[1], *shape[2:]]
    return [list(dims), list(dims)] if several else dims


@rule("torchvision.ps_roi_align", "torchvision.ps_roi_pool")
def regions_by_position(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Channels are (channel, position in the region)."""
    x, rois = tracer.dims(call.args[0]), tracer.dims(call.args[1])
    tracer.pin(x[0], *x[2:], *rois, why="regions are found by indices of images and positions in space")
    shape = call.out[0].shape
    halves = split(x[1], shape[1])
    if halves is None:
        tracer.pin(x[1], why="its positions run across the parts of the channels")
        return [list(shape), list(shape)]
    tracer.pin(halves[1], why="its positions become positions in space")
    dims: Shape = [shape[0], product([halves[0]]), *shape[2:]]
    return [list(dims), list(dims)]


@rule("aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c")
def fourier(tracer: AxisTracer, call: Call) -> Shape:
    """Positions become frequencies along some dimensions; the others stay the same."""
    dims = list(tracer.dims(call.args[0]))
    for index in call.args[1]:
        tracer.pin(dims[index], why="a Fourier transform mixes its positions into frequencies, of which all are needed")
        dims[index] = int(call.out.shape[index])
    return dims


@rule("aten.view_as_complex")
def view_as_complex(tracer: AxisTracer, call: Call) -> Shape:
    """The last dimension holds real and imaginary parts."""
    dims = tracer.dims(call.args[0])
    tracer.pin(dims[-1], why="its two positions are the real and the imaginary part")
    return dims[:-1]


@rule("aten.view_as_real", "aten._view_as_real_physical")
def view_as_real(tracer: AxisTracer, call: Call) -> Shape:
    """Real and imaginary parts become a new last dimension."""
    return [*tracer.dims(call.args[0]), 2]
