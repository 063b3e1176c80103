"""Rules of the operators along the positions of a dimension: reductions, extrema, cumulative operators, sorting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from edakari.graph.algebra import size
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.operators import REDUCTIONS, named
from edakari.graph.rules import rule
from edakari.graph.rules_elementwise import broadcast

__all__: list[str] = []

NORMS = named("vector_norm")
POSITIONS = named("extreme_position")


@rule(*REDUCTIONS, *NORMS)
def reduce(tracer: AxisTracer, call: Call) -> Shape | list[Shape]:
    """Some dimensions are reduced; in a pruned network, only their remaining positions count."""
    dims = tracer.dims(call.args[0])
    chosen = call.arg(2 if call.name in NORMS else 1, "dim")
    first = call.out[0] if isinstance(call.out, tuple | list) else call.out
    out = _left(dims, _positions(chosen, len(dims)), first.dim())
    return [list(out) for _ in call.out] if isinstance(call.out, tuple | list) else out


def _left(dims: Shape, gone: set[int], count: int) -> Shape:
    """Dimensions after a reduction; reduced ones have length 1 if the operator preserves them."""
    if count == len(dims):
        return [1 if position in gone else dim for position, dim in enumerate(dims)]
    return [dim for position, dim in enumerate(dims) if position not in gone]


def _positions(chosen: Any, count: int) -> set[int]:
    if chosen is None or (isinstance(chosen, Sequence) and not chosen):
        return set(range(count))
    return {index % max(count, 1) for index in ([chosen] if isinstance(chosen, int) else chosen)}


@rule(*named("extremum"), *POSITIONS)
def extremum(tracer: AxisTracer, call: Call) -> Shape | list[Shape]:
    """A reduction that also returns the index of the value."""
    other = call.arg(1, "other")
    if isinstance(other, torch.Tensor):
        return broadcast(tracer, [tracer.dims(call.args[0]), tracer.dims(other)], call.out.shape)
    dims = tracer.dims(call.args[0])
    along = _positions(call.arg(1, "dim"), len(dims))
    if call.name in POSITIONS and len(along) > 1:
        tracer.pin(*dims, why="its indices count the positions of all dimensions together")
    elif call.name in POSITIONS or isinstance(call.out, tuple | list):
        tracer.entries_index(0 if call.name in POSITIONS else 1, *(dims[index] for index in along))
    reduced: Shape | list[Shape] = reduce(tracer, call)
    return reduced


@rule(*named("histogram"))
def histogram(tracer: AxisTracer, call: Call) -> Shape:
    """Values are counted, in any position."""
    tracer.dims(call.args[0])
    return list(call.out.shape)


@rule(*named("rank", "ranking"))
def ordered(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Values are ordered by rank: which they are, and how many, depends on the whole dimension."""
    dims = list(tracer.dims(call.args[0]))
    index, name = (1, "dim") if call.name == "aten.sort" else (2, "dim")
    chosen = call.arg(index, name, -1)
    if call.name == "aten.sort" and "stable" in call.kwargs:
        chosen = call.kwargs.get("dim", -1)
    along = chosen % max(len(dims), 1)
    if dims:
        tracer.pin(dims[along], why="it selects values by rank, and ranks change when positions are removed")
    out = call.out[0]
    if call.name != "aten.kthvalue":
        dims[along : along + 1] = [int(length) for length in out.shape[along : along + 1]]
    else:
        dims = _left(dims, {along}, out.dim())
    return [list(dims), list(dims)]


@rule(*named("running_sum", "running_product", "running_logsumexp"))
def running(tracer: AxisTracer, call: Call) -> Shape:
    """Each position accumulates those before it; in a pruned network, only the remaining ones."""
    return list(tracer.dims(call.args[0]))


@rule(*named("running_maximum", "running_minimum"))
def running_extremum(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Like a cumulative sum; the second output is the index of each value."""
    dims = tracer.dims(call.args[0])
    if dims:
        tracer.entries_index(1, dims[call.args[1]])
    return [list(dims), list(dims)]


@rule(*named("order"))
def reorder(tracer: AxisTracer, call: Call) -> Shape:
    """Positions of some dimensions are reordered; these are pinned."""
    dims = list(tracer.dims(call.args[0]))
    chosen = call.arg(2 if call.name == "aten.roll" else 1, "dims", ())
    for index in _positions(chosen, len(dims)):
        tracer.pin(dims[index], why="it reorders positions, and removing some changes where the others go")
        dims[index] = size(dims[index])
    return dims


@rule(*named("distance"))
def distances(tracer: AxisTracer, call: Call) -> Shape:
    """Distances between the rows of two matrices: columns are unified and reduced."""
    left, right = tracer.dims(call.args[0]), tracer.dims(call.args[1])
    tracer.unify(left[-1], right[-1])
    batch = broadcast(tracer, [left[:-2], right[:-2]], call.out.shape[:-2])
    return [*batch, left[-2], right[-2]]


@rule("aten.linalg_cross")
def cross(tracer: AxisTracer, call: Call) -> Shape:
    """The three positions of one dimension are mixed."""
    dims = broadcast(tracer, [tracer.dims(tensor) for tensor in call.tensors()], call.out.shape)
    tracer.pin(dims[call.kwargs.get("dim", -1)], why="it mixes the three positions of a vector")
    return dims


@rule(*named("loss"))
def loss(tracer: AxisTracer, call: Call) -> Shape:
    """Computed position by position, and then possibly reduced over all positions."""
    tensors = call.tensors()
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))  # type: ignore[no-untyped-call]
    dims = broadcast(tracer, [tracer.dims(tensor) for tensor in tensors], shape)
    return dims if call.out.dim() == len(dims) else []
