"""Rules of the operators that act in space: pooling, resizing, padding by reflection, pixel shuffle."""

from __future__ import annotations

from edakari.graph.axes import product, split
from edakari.graph.flow import Call, Dims, Flow
from edakari.graph.rules import rule

__all__: list[str] = []


@rule(
    "aten.max_pool2d_with_indices",
    "aten.max_pool2d",
    "aten.avg_pool2d",
    "aten._adaptive_avg_pool2d",
    "aten.adaptive_avg_pool2d",
    "aten.adaptive_max_pool2d",
    "aten.upsample_nearest2d",
    "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d",
    "aten._upsample_nearest_exact2d",
    "aten._upsample_bilinear2d_aa",
    "aten._upsample_bicubic2d_aa",
    "aten.reflection_pad2d",
    "aten.replication_pad2d",
    "aten.grid_sampler_2d",
)
def spatial_2d(flow: Flow, call: Call) -> Dims | list[Dims]:
    """Acts on the last two dimensions."""
    return _spatial(flow, call, 2)


@rule(
    "aten.max_pool3d_with_indices",
    "aten.avg_pool3d",
    "aten._adaptive_avg_pool3d",
    "aten.adaptive_max_pool3d",
    "aten.upsample_nearest3d",
    "aten.upsample_trilinear3d",
    "aten.reflection_pad3d",
    "aten.replication_pad3d",
)
def spatial_3d(flow: Flow, call: Call) -> Dims | list[Dims]:
    """Acts on the last three dimensions."""
    return _spatial(flow, call, 3)


@rule(
    "aten.avg_pool1d",
    "aten.adaptive_avg_pool1d",
    "aten.max_pool1d_with_indices",
    "aten.upsample_nearest1d",
    "aten.upsample_linear1d",
    "aten.reflection_pad1d",
    "aten.replication_pad1d",
)
def spatial_1d(flow: Flow, call: Call) -> Dims | list[Dims]:
    """Acts on the last dimension."""
    return _spatial(flow, call, 1)


def _spatial(flow: Flow, call: Call, count: int) -> Dims | list[Dims]:
    dims = flow.dims(call.args[0])
    several = isinstance(call.out, tuple | list)
    first = call.out[0] if several else call.out
    flow.pin(*dims[-count:], why="positions in space are mixed")
    out: Dims = [*dims[:-count], *first.shape[-count:]]
    return [list(out) for _ in call.out] if several else out


@rule("aten.pixel_shuffle")
def pixel_shuffle(flow: Flow, call: Call) -> Dims:
    """Channels are (channel, position in the block); the block goes into space."""
    dims = flow.dims(call.args[0])
    halves = split(dims[-3], call.out.shape[-3])
    if halves is None:
        flow.pin(dims[-3])
        return [*dims[:-3], *call.out.shape[-3:]]
    flow.pin(halves[1], why="becomes space")
    return [*dims[:-3], product([halves[0]]), *call.out.shape[-2:]]


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(flow: Flow, call: Call) -> Dims:
    """Space goes into channels: (channel, position in the block)."""
    dims = flow.dims(call.args[0])
    return [*dims[:-3], product([dims[-3], call.args[1] ** 2]), *call.out.shape[-2:]]
