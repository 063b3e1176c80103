"""Rules of the operators that read or write positions by index."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edakari.graph.algebra import DimExpr, resolve, size
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.operators import named
from edakari.graph.rules import rule

__all__: list[str] = []

BY_NUMBER = "it selects positions by index, and indices change when positions are removed"
NUMBERS = "its entries are indices of positions"
ONLY_SOME = "it reaches only the first positions of a longer dimension"


@rule(*named("selection"))
def select(tracer: AxisTracer, call: Call) -> Shape:
    """One position of a dimension is selected."""
    dims = tracer.dims(call.args[0])
    along = call.args[1] % len(dims)
    tracer.pin(dims[along], why="one position is selected by index")
    return [*dims[:along], *dims[along + 1 :]]


@rule(*named("pieces"))
def unbind(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Every position of a dimension becomes a tensor."""
    return [select(tracer, Call(call.name, (call.args[0], call.arg(1, "dim", 0)), {}, None)) for _ in call.out]


@rule(*named("diagonal"))
def diagonal(tracer: AxisTracer, call: Call) -> Shape:
    """Positions of two dimensions with the same index are selected."""
    dims = list(tracer.dims(call.args[0]))
    pair = {call.arg(2, "dim1", 0) % len(dims), call.arg(3, "dim2", 1) % len(dims)}
    tracer.pin(*(dims[index] for index in pair), why="it pairs the positions of two dimensions by index")
    return [*(dim for index, dim in enumerate(dims) if index not in pair), int(call.out.shape[-1])]


def _is_mask(entry: torch.Tensor) -> bool:
    return entry.dtype in (torch.bool, torch.uint8)


def _used(indices: Sequence[torch.Tensor | None]) -> list[int]:
    """Dimensions that indices select from; a mask has several."""
    used: list[int] = []
    position = 0
    for entry in indices:
        width = entry.dim() if entry is not None and _is_mask(entry) else 1
        if entry is not None:
            used.extend(range(position, position + width))
        position += width
    return used


def _pin_used(tracer: AxisTracer, dims: Shape, indices: Sequence[torch.Tensor | None]) -> list[int]:
    used = _used(indices)
    for entry in indices:
        if entry is not None:
            tracer.pin(
                *tracer.dims(entry), why="the selected positions depend on values" if _is_mask(entry) else NUMBERS
            )
    tracer.pin(*(dims[index] for index in used), why=BY_NUMBER)
    return used


def _where(used: Sequence[int]) -> int:
    """Position at which the indices' dimensions are inserted.

    They replace the dimensions that they select from, if these are adjacent; otherwise they come first.
    """
    return used[0] if list(used) == list(range(used[0], used[-1] + 1)) else 0


def _spliced(dims: Shape, used: Sequence[int], new: Shape) -> Shape:
    """The remaining dimensions, with those of the indices inserted."""
    out: Shape = [dim for index, dim in enumerate(dims) if index not in used]
    first = _where(used)
    out[first:first] = new
    return out


@rule("aten.index", "aten._unsafe_index")
def index(tracer: AxisTracer, call: Call) -> Shape:
    """Positions are selected by tensors of indices."""
    dims = tracer.dims(call.args[0])
    used = _pin_used(tracer, dims, call.args[1])
    first, count = _where(used), call.out.dim() - len(dims) + len(used)
    return _spliced(dims, used, [int(length) for length in call.out.shape[first : first + count]])


@rule("aten.index_put", "aten.index_put_", "aten._unsafe_index_put", "aten._index_put_impl_")
def index_put(tracer: AxisTracer, call: Call) -> Shape:
    """Values are written at indices; a single value with a mask is written to each position of the mask."""
    x, indices, values = call.args[:3]
    dims = tracer.dims(x)
    masks = [entry for entry in indices if entry is not None and _is_mask(entry)]
    if len(masks) == 1 and sum(entry is not None for entry in indices) == 1 and values.numel() == 1:
        for index, dim in zip(_used(indices), tracer.dims(masks[0]), strict=True):
            tracer.unify(dims[index], dim)
        return list(dims)
    used = _pin_used(tracer, dims, indices)
    depth = max(1 if _is_mask(entry) else entry.dim() for entry in indices if entry is not None)
    _meet_from_the_right(tracer, tracer.dims(values), _spliced(dims, used, [0] * depth))
    return list(dims)


def _meet_from_the_right(tracer: AxisTracer, values: Shape, target: Shape) -> None:
    for value, dim in zip(reversed(values), reversed(target), strict=False):
        if size(value) == size(dim):
            tracer.unify(value, dim)
        elif size(value) > 1:
            tracer.pin(value, why="it is written to positions that are selected by index")


@rule("aten.index_select")
def index_select(tracer: AxisTracer, call: Call) -> Shape:
    """Positions of one dimension are selected by a list of indices."""
    dims = list(tracer.dims(call.args[0]))
    tracer.pin(*tracer.dims(call.args[2]), why=NUMBERS)
    if dims:
        along = call.args[1] % len(dims)
        tracer.pin(dims[along], why=BY_NUMBER)
        dims[along] = int(call.out.shape[along])
    return dims


@rule(*named("gather"))
def gather(tracer: AxisTracer, call: Call) -> Shape:
    """Positions of one dimension are selected by index, for each position of the others."""
    x, index = call.args[0], call.args[2]
    dims, chosen = tracer.dims(x), tracer.dims(index)
    if not dims:
        return list(chosen)
    along = call.args[1] % len(dims)
    _same_places(tracer, along, dims, chosen)
    _reads_along(tracer, index, dims[along])
    return list(chosen)


def _same_places(tracer: AxisTracer, along: int, longer: Shape, shorter: Shape) -> None:
    """Unify all dimensions but one; if one is longer, only its first positions are reached."""
    for index, (left, right) in enumerate(zip(longer, shorter, strict=True)):
        if index != along and size(left) == size(right):
            tracer.unify(left, right)
        elif index != along:
            tracer.pin(left, right, why=ONLY_SOME)


def _reads_along(tracer: AxisTracer, index: torch.Tensor, dim: DimExpr) -> None:
    """Pin a dimension unless its indices were found along the very same dimension."""
    found = tracer.indexed_by(index)
    if not found or any(not _is_same(each, dim) for each in found):
        tracer.pin(dim, *found, why=BY_NUMBER)


def _is_same(left: DimExpr, right: DimExpr) -> bool:
    left, right = resolve(left), resolve(right)
    return left is right or (type(left) is type(right) and left == right)


@rule(*named("scatter"))
def scatter(tracer: AxisTracer, call: Call) -> Shape:
    """Values are written to positions of one dimension by index, for each position of the others."""
    x, index, source = call.args[0], call.args[2], call.arg(3, "src")
    dims, chosen = tracer.dims(x), tracer.dims(index)
    if not dims:
        return []
    along = call.args[1] % len(dims)
    _same_places(tracer, along, dims, chosen)
    _reads_along(tracer, index, dims[along])
    tracer.pin(chosen[along], why=NUMBERS)
    if isinstance(source, torch.Tensor) and source.dim() == len(chosen):
        written = tracer.dims(source)
        _same_places(tracer, along, written, chosen)
        tracer.pin(written[along], why="its positions are written to others by index")
    return list(dims)


@rule(*(f"aten.{name}{end}" for name in ("index_add", "index_copy", "index_fill", "index_reduce") for end in ("", "_")))
def index_write(tracer: AxisTracer, call: Call) -> Shape:
    """Slices are written to positions of one dimension by a list of indices; the other dimensions are unified."""
    x, source = call.args[0], call.args[3]
    dims = tracer.dims(x)
    if not dims:
        return []
    along = call.args[1] % len(dims)
    tracer.pin(dims[along], why="its positions are written by index")
    tracer.pin(*tracer.dims(call.args[2]), why=NUMBERS)
    if isinstance(source, torch.Tensor) and source.dim() == len(dims):
        written = tracer.dims(source)
        tracer.pin(written[along], why="its positions are written to others by index")
        _same_places(tracer, along, dims, written)
    return list(dims)


@rule("aten.slice_scatter", "aten.select_scatter")
def slice_scatter(tracer: AxisTracer, call: Call) -> Shape:
    """A run of positions, or one, is written; the other dimensions are unified."""
    dims, source = list(tracer.dims(call.args[0])), list(tracer.dims(call.args[1]))
    along = call.arg(2, "dim", 0) % len(dims)
    if call.name == "aten.select_scatter":
        source.insert(along, 1)
    if size(dims[along]) == size(source[along]):
        tracer.unify(dims[along], source[along])
    else:
        tracer.pin(dims[along], source[along], why="some of its positions are written by index")
    _same_places(tracer, along, dims, source)
    return dims


@rule(
    *("aten.nonzero", "aten.masked_select", "aten.bincount"),
    *("aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "torchvision.nms"),
)
def by_values(tracer: AxisTracer, call: Call) -> Shape | list[Shape]:
    """The result or its order depends on values."""
    for tensor in call.tensors():
        tracer.pin(*tracer.dims(tensor), why="the selected positions and their order depend on values")
    several = isinstance(call.out, tuple | list)
    return [list(out.shape) for out in call.out] if several else list(call.out.shape)


@rule("aten.masked_scatter", "aten.masked_scatter_")
def masked_scatter(tracer: AxisTracer, call: Call) -> Shape:
    """Values are written in order where a mask holds.

    Whole rows are written if the mask is constant along the last dimension, as when features of an image replace
    tokens.
    """
    x, mask, source = call.args[:3]
    dims, held, given = tracer.dims(x), list(tracer.dims(mask)), list(tracer.dims(source))
    by_rows = x.dim() > 1 and mask.dim() > 0 and source.dim() > 1 and source.shape[-1] == x.shape[-1]
    if by_rows and (mask.shape[-1] == 1 or mask.stride(-1) == 0):
        last = given.pop()
        tracer.unify(dims[-1], last)
        if size(held[-1]) > 1:
            tracer.unify(dims[-1], held[-1])
        del held[-1:]
    else:
        tracer.pin(dims[-1], why="values are assigned one by one, in an order that depends on a mask")
    tracer.pin(*dims[:-1], *held, *given, why="the written positions depend on a mask")
    return list(dims)


@rule("aten._pack_padded_sequence")
def pack(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Steps of sequences are packed one after another, up to the length of each."""
    dims = tracer.dims(call.args[0])
    tracer.pin(*dims[:2], *tracer.dims(call.args[1]), why="steps are ordered by the lengths of sequences")
    return [[int(call.out[0].shape[0]), *dims[2:]], list(call.out[1].shape)]


@rule("aten.bucketize", "aten.searchsorted")
def bucketize(tracer: AxisTracer, call: Call) -> Shape:
    """Each value is replaced by the index of the interval that contains it."""
    bounds, values = (1, 0) if call.name == "aten.bucketize" else (0, 1)
    lowest = tracer.dims(call.args[bounds])
    tracer.pin(lowest[-1], why="the index of an interval counts the bounds before it")
    x = call.args[values]
    if not isinstance(x, torch.Tensor):
        return list(call.out.shape)
    dims = list(tracer.dims(x))
    if len(lowest) > 1:
        _same_places(tracer, len(dims) - 1, dims, lowest)
    return dims


@rule(*named("embedding"))
def embedding(tracer: AxisTracer, call: Call) -> Shape:
    """Rows are looked up by index, so all of them stay; columns stay the same."""
    weight, indices = tracer.dims(call.args[0]), tracer.dims(call.args[1])
    tracer.pin(weight[0], why="its rows are looked up by index")
    return [*indices, weight[1]]


@rule("aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Rows are looked up by index and summed; columns stay the same."""
    weight = tracer.dims(call.args[0])
    tracer.pin(weight[0], why="its rows are looked up by index")
    for other in call.tensors()[1:]:
        tracer.pin(*tracer.dims(other), why=NUMBERS)
    return [[int(call.out[0].shape[0]), weight[1]], *(list(out.shape) for out in call.out[1:])]
