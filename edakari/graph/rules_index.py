"""Rules of the operators that read or write positions by their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edakari.graph.axes import Expression, resolve, size
from edakari.graph.flow import Call, Dims, Flow
from edakari.graph.rules import rule

__all__: list[str] = []

BY_NUMBER = "it takes positions by their numbers, and among fewer positions these mean others"
NUMBERS = "its entries are numbers of positions"
ONLY_SOME = "it reaches only the first positions of a longer dimension"


@rule("aten.select")
def select(flow: Flow, call: Call) -> Dims:
    """One position of a dimension."""
    dims = flow.dims(call.args[0])
    along = call.args[1] % len(dims)
    flow.pin(dims[along], why="one position is taken by number")
    return [*dims[:along], *dims[along + 1 :]]


@rule("aten.unbind")
def unbind(flow: Flow, call: Call) -> list[Dims]:
    """Every position of a dimension by itself."""
    return [select(flow, Call(call.name, (call.args[0], call.arg(1, "dim", 0)), {}, None)) for _ in call.out]


@rule("aten.diagonal")
def diagonal(flow: Flow, call: Call) -> Dims:
    """Positions of two dimensions that have one number."""
    dims = list(flow.dims(call.args[0]))
    pair = {call.arg(2, "dim1", 0) % len(dims), call.arg(3, "dim2", 1) % len(dims)}
    flow.pin(*(dims[place] for place in pair), why="it pairs the positions of two dimensions by their numbers")
    return [*(dim for place, dim in enumerate(dims) if place not in pair), int(call.out.shape[-1])]


def _is_mask(entry: torch.Tensor) -> bool:
    return entry.dtype in (torch.bool, torch.uint8)


def _used(indices: Sequence[torch.Tensor | None]) -> list[int]:
    """Which dimensions indices stand for; a mask has several."""
    used: list[int] = []
    position = 0
    for entry in indices:
        width = entry.dim() if entry is not None and _is_mask(entry) else 1
        if entry is not None:
            used.extend(range(position, position + width))
        position += width
    return used


def _pin_used(flow: Flow, dims: Dims, indices: Sequence[torch.Tensor | None]) -> list[int]:
    used = _used(indices)
    for entry in indices:
        if entry is not None:
            flow.pin(
                *flow.dims(entry), why="which positions it picks depends on values" if _is_mask(entry) else NUMBERS
            )
    flow.pin(*(dims[place] for place in used), why=BY_NUMBER)
    return used


def _where(used: Sequence[int]) -> int:
    """Where the dimensions of the indices come: in the place of those that they stand for, in front if these stand
    apart.
    """
    return used[0] if list(used) == list(range(used[0], used[-1] + 1)) else 0


def _spliced(dims: Dims, used: Sequence[int], new: Dims) -> Dims:
    """The dimensions that are left, with those of the indices among them."""
    out: Dims = [dim for place, dim in enumerate(dims) if place not in used]
    first = _where(used)
    out[first:first] = new
    return out


@rule("aten.index", "aten._unsafe_index")
def index(flow: Flow, call: Call) -> Dims:
    """Positions looked up by tensors of numbers."""
    dims = flow.dims(call.args[0])
    used = _pin_used(flow, dims, call.args[1])
    first, count = _where(used), call.out.dim() - len(dims) + len(used)
    return _spliced(dims, used, [int(length) for length in call.out.shape[first : first + count]])


@rule("aten.index_put", "aten.index_put_", "aten._unsafe_index_put", "aten._index_put_impl_")
def index_put(flow: Flow, call: Call) -> Dims:
    """Values written where indices say; one value under a mask goes to each position that the mask holds."""
    x, indices, values = call.args[:3]
    dims = flow.dims(x)
    masks = [entry for entry in indices if entry is not None and _is_mask(entry)]
    if len(masks) == 1 and sum(entry is not None for entry in indices) == 1 and values.numel() == 1:
        for place, dim in zip(_used(indices), flow.dims(masks[0]), strict=True):
            flow.unify(dims[place], dim)
        return list(dims)
    used = _pin_used(flow, dims, indices)
    depth = max(1 if _is_mask(entry) else entry.dim() for entry in indices if entry is not None)
    _meet_from_the_right(flow, flow.dims(values), _spliced(dims, used, [0] * depth))
    return list(dims)


def _meet_from_the_right(flow: Flow, values: Dims, target: Dims) -> None:
    for value, dim in zip(reversed(values), reversed(target), strict=False):
        if size(value) == size(dim):
            flow.unify(value, dim)
        elif size(value) > 1:
            flow.pin(value, why="it is written to positions that are found by number")


@rule("aten.index_select")
def index_select(flow: Flow, call: Call) -> Dims:
    """Positions of one dimension by a list of numbers."""
    dims = list(flow.dims(call.args[0]))
    flow.pin(*flow.dims(call.args[2]), why=NUMBERS)
    if dims:
        along = call.args[1] % len(dims)
        flow.pin(dims[along], why=BY_NUMBER)
        dims[along] = int(call.out.shape[along])
    return dims


@rule("aten.gather")
def gather(flow: Flow, call: Call) -> Dims:
    """Positions of one dimension by number, for each position of the others."""
    x, index = call.args[0], call.args[2]
    dims, chosen = flow.dims(x), flow.dims(index)
    if not dims:
        return list(chosen)
    along = call.args[1] % len(dims)
    _same_places(flow, along, dims, chosen)
    _reads_along(flow, index, dims[along])
    return list(chosen)


def _same_places(flow: Flow, along: int, longer: Dims, shorter: Dims) -> None:
    """Dimensions other than one meet; where one is longer, only its first positions are reached."""
    for place, (left, right) in enumerate(zip(longer, shorter, strict=True)):
        if place != along and size(left) == size(right):
            flow.unify(left, right)
        elif place != along:
            flow.pin(left, right, why=ONLY_SOME)


def _reads_along(flow: Flow, index: torch.Tensor, dim: Expression) -> None:
    """Keep a dimension whole unless its numbers were found along the very same dimension."""
    found = flow.indexed_by(index)
    if not found or any(not _is_same(each, dim) for each in found):
        flow.pin(dim, *found, why=BY_NUMBER)


def _is_same(left: Expression, right: Expression) -> bool:
    left, right = resolve(left), resolve(right)
    return left is right or (type(left) is type(right) and left == right)


@rule(*(f"aten.{name}{end}" for name in ("scatter", "scatter_add", "scatter_reduce") for end in ("", "_")))
def scatter(flow: Flow, call: Call) -> Dims:
    """Values written to positions of one dimension by number, for each position of the others."""
    x, index, source = call.args[0], call.args[2], call.arg(3, "src")
    dims, chosen = flow.dims(x), flow.dims(index)
    if not dims:
        return []
    along = call.args[1] % len(dims)
    _same_places(flow, along, dims, chosen)
    _reads_along(flow, index, dims[along])
    flow.pin(chosen[along], why=NUMBERS)
    if isinstance(source, torch.Tensor) and source.dim() == len(chosen):
        written = flow.dims(source)
        _same_places(flow, along, written, chosen)
        flow.pin(written[along], why="its positions are written to others by number")
    return list(dims)


@rule(*(f"aten.{name}{end}" for name in ("index_add", "index_copy", "index_fill", "index_reduce") for end in ("", "_")))
def index_write(flow: Flow, call: Call) -> Dims:
    """Slices written to positions of one dimension by a list of numbers; the other dimensions meet."""
    x, source = call.args[0], call.args[3]
    dims = flow.dims(x)
    if not dims:
        return []
    along = call.args[1] % len(dims)
    flow.pin(dims[along], why="its positions are written by number")
    flow.pin(*flow.dims(call.args[2]), why=NUMBERS)
    if isinstance(source, torch.Tensor) and source.dim() == len(dims):
        written = flow.dims(source)
        flow.pin(written[along], why="its positions are written to others by number")
        _same_places(flow, along, dims, written)
    return list(dims)


@rule("aten.slice_scatter", "aten.select_scatter")
def slice_scatter(flow: Flow, call: Call) -> Dims:
    """A run of positions, or one, is written; the other dimensions meet."""
    dims, source = list(flow.dims(call.args[0])), list(flow.dims(call.args[1]))
    along = call.arg(2, "dim", 0) % len(dims)
    if call.name == "aten.select_scatter":
        source.insert(along, 1)
    if size(dims[along]) == size(source[along]):
        flow.unify(dims[along], source[along])
    else:
        flow.pin(dims[along], source[along], why="some of its positions are written by number")
    _same_places(flow, along, dims, source)
    return dims


@rule(
    *("aten.nonzero", "aten.masked_select", "aten.bincount"),
    *("aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "torchvision.nms"),
)
def by_values(flow: Flow, call: Call) -> Dims | list[Dims]:
    """What comes out, or its order, depends on values."""
    for tensor in call.tensors():
        flow.pin(*flow.dims(tensor), why="which positions it picks, and in what order, depends on values")
    several = isinstance(call.out, tuple | list)
    return [list(out.shape) for out in call.out] if several else list(call.out.shape)


@rule("aten.masked_scatter", "aten.masked_scatter_")
def masked_scatter(flow: Flow, call: Call) -> Dims:
    """Values in their order to where a mask holds; rows by rows where the mask is the same all over the last dimension,
    as where features of an image take the places of tokens.
    """
    x, mask, source = call.args[:3]
    dims, held, given = flow.dims(x), list(flow.dims(mask)), list(flow.dims(source))
    by_rows = x.dim() > 1 and mask.dim() > 0 and source.dim() > 1 and source.shape[-1] == x.shape[-1]
    if by_rows and (mask.shape[-1] == 1 or mask.stride(-1) == 0):
        last = given.pop()
        flow.unify(dims[-1], last)
        if size(held[-1]) > 1:
            flow.unify(dims[-1], held[-1])
        del held[-1:]
    else:
        flow.pin(dims[-1], why="values are dealt out one by one, in an order that depends on a mask")
    flow.pin(*dims[:-1], *held, *given, why="which positions it writes depends on a mask")
    return list(dims)


@rule("aten._pack_padded_sequence")
def pack(flow: Flow, call: Call) -> list[Dims]:
    """Steps of sequences one after another, as far as each goes."""
    dims = flow.dims(call.args[0])
    flow.pin(*dims[:2], *flow.dims(call.args[1]), why="steps are ordered by the lengths of sequences")
    return [[int(call.out[0].shape[0]), *dims[2:]], list(call.out[1].shape)]


@rule("aten.bucketize", "aten.searchsorted")
def bucketize(flow: Flow, call: Call) -> Dims:
    """Each value is replaced by the number of the interval that it lies in."""
    bounds, values = (1, 0) if call.name == "aten.bucketize" else (0, 1)
    lowest = flow.dims(call.args[bounds])
    flow.pin(lowest[-1], why="the number of an interval counts the bounds before it")
    x = call.args[values]
    if not isinstance(x, torch.Tensor):
        return list(call.out.shape)
    dims = list(flow.dims(x))
    if len(lowest) > 1:
        _same_places(flow, len(dims) - 1, dims, lowest)
    return dims


@rule("aten.embedding")
def embedding(flow: Flow, call: Call) -> Dims:
    """Rows are looked up by number, so they all stay; columns go on."""
    weight, indices = flow.dims(call.args[0]), flow.dims(call.args[1])
    flow.pin(weight[0], why="its rows are looked up by number")
    return [*indices, weight[1]]


@rule("aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(flow: Flow, call: Call) -> list[Dims]:
    """Rows are looked up by number and summed up; columns go on."""
    weight = flow.dims(call.args[0])
    flow.pin(weight[0], why="its rows are looked up by number")
    for other in call.tensors()[1:]:
        flow.pin(*flow.dims(other), why=NUMBERS)
    return [[int(call.out[0].shape[0]), weight[1]], *(list(out.shape) for out in call.out[1:])]
