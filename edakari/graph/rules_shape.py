"""Rules of the operators that move positions around: views, joins, cuts, padding."""

from __future__ import annotations

from collections.abc import Sequence

from edakari.graph.algebra import DimExpr, concat, cut, fresh, product, resolve, size, split
from edakari.graph.axis_tracer import AxisTracer, Call, Shape
from edakari.graph.operators import named
from edakari.graph.reshape import regroup
from edakari.graph.rules import rule

__all__: list[str] = []


@rule(*named("view"))
def view(tracer: AxisTracer, call: Call) -> Shape:
    """Dimensions are split and joined as products in row-major order."""
    return regroup(tracer.dims(call.args[0]), call.out.shape, f"{tracer.reason}: the reshape runs across it")


@rule(*named("permutation"))
def permute(tracer: AxisTracer, call: Call) -> Shape:
    """Dimensions in another order."""
    dims = tracer.dims(call.args[0])
    tracer.set(order=tuple(position % len(dims) for position in call.args[1]))
    return [dims[position] for position in call.args[1]]


@rule(*named("transposition"))
def transpose(tracer: AxisTracer, call: Call) -> Shape:
    """Two dimensions are swapped."""
    dims = list(tracer.dims(call.args[0]))
    if len(dims) < 2:
        return dims
    a, b = call.args[1:3] if len(call.args) > 2 else (0, 1)
    order = list(range(len(dims)))
    order[a], order[b] = order[b], order[a]
    tracer.set(order=tuple(order))
    dims[a], dims[b] = dims[b], dims[a]
    return dims


@rule(*named("unsqueeze"))
def unsqueeze(tracer: AxisTracer, call: Call) -> Shape:
    """A new dimension of one position."""
    dims = list(tracer.dims(call.args[0]))
    dims.insert(call.args[1] % (len(dims) + 1), 1)
    return dims


@rule(*named("squeeze"))
def squeeze(tracer: AxisTracer, call: Call) -> Shape:
    """Dimensions of one position are removed."""
    dims = tracer.dims(call.args[0])
    chosen = call.arg(1, "dim", range(len(dims)))
    positions = {p % max(len(dims), 1) for p in ([chosen] if isinstance(chosen, int) else chosen)}
    return [dim for position, dim in enumerate(dims) if position not in positions or size(dim) != 1]


@rule(*named("expand"))
def expand(tracer: AxisTracer, call: Call) -> Shape:
    """Dimensions of one position are repeated to the length of those they are joined to; the others stay the same."""
    dims = tracer.dims(call.args[0])
    shape = call.out.shape
    padded = [*([1] * (len(shape) - len(dims))), *dims]
    return [dim if size(dim) == length else fresh(length) for dim, length in zip(padded, shape, strict=True)]


@rule(*named("repeat"))
def repeat(tracer: AxisTracer, call: Call) -> Shape:
    """The whole dimension is repeated: (repeat, position); one position is repeated to the length it is joined to."""
    dims = tracer.dims(call.args[0])
    times = call.args[1]
    padded = [*([1] * (len(times) - len(dims))), *dims]
    return [_repeated(dim, count) for count, dim in zip(times, padded, strict=True)]


def _repeated(dim: DimExpr, count: int) -> DimExpr:
    return fresh(int(count)) if size(dim) == 1 else product([int(count), dim])


@rule(*named("strides"))
def as_strided(tracer: AxisTracer, call: Call) -> Shape | None:
    """Only supported if it restates the shape of its input."""
    return list(tracer.dims(call.args[0])) if tuple(call.args[1]) == tuple(call.args[0].shape) else None


@rule(*named("concatenation"))
def cat(tracer: AxisTracer, call: Call) -> Shape:
    """Blocks are concatenated along one dimension; the others are unified."""
    # torch lets one-dimensional tensors without entries join any tensor
    parts = [tracer.dims(tensor) for tensor in call.args[0] if tensor.dim() == call.out.dim()]
    along = call.arg(1, "dim", 0) % len(parts[0])
    for part in parts[1:]:
        for position, (first, other) in enumerate(zip(parts[0], part, strict=True)):
            if position != along:
                tracer.unify(first, other)
    result = list(parts[0])
    result[along] = concat([part[along] for part in parts])
    return result


@rule(*named("stack"))
def stack(tracer: AxisTracer, call: Call) -> Shape:
    """The same dimensions are stacked in a new one."""
    parts = [tracer.dims(tensor) for tensor in call.args[0]]
    for part in parts[1:]:
        for first, other in zip(parts[0], part, strict=True):
            tracer.unify(first, other)
    result = list(parts[0])
    result.insert(call.arg(1, "dim", 0) % (len(result) + 1), len(parts))
    return result


@rule(*named("split"))
def split_evenly(tracer: AxisTracer, call: Call) -> list[Shape]:
    """Pieces of one dimension. Equal pieces lose the same positions, since `chunk` halves what is left."""
    dims = tracer.dims(call.args[0])
    along = call.arg(2, "dim", 0) % len(dims)
    lengths = [int(piece.shape[along]) for piece in call.out]
    if not isinstance(resolve(dims[along]), int) and len(set(lengths)) == 1:
        halves = split(dims[along], len(lengths))
        if halves is not None:
            tracer.pin(halves[0], why="the code splits it into a fixed number of pieces")
            return [_replaced(dims, along, product([halves[1]])) for _ in lengths]
    if not call.name.endswith("split_with_sizes") and len(set(lengths)) > 1:
        tracer.pin(dims[along], why="the code splits it into pieces of which the last is shorter")
    return [_replaced(dims, along, piece) for piece in _pieces(tracer, dims[along], lengths)]


@rule("aten.glu")
def glu(tracer: AxisTracer, call: Call) -> Shape | None:
    """One half gates the other, so both lose the same positions."""
    dims = tracer.dims(call.args[0])
    along = call.arg(1, "dim", -1) % len(dims)
    halves = split(dims[along], 2)
    if halves is None:
        return None
    tracer.pin(halves[0], why="one half of it gates the other, so there are always two")
    return _replaced(dims, along, product([halves[1]]))


def _pieces(tracer: AxisTracer, dim: DimExpr, lengths: Sequence[int]) -> list[DimExpr]:
    parts: list[DimExpr] = []
    rest = dim
    for length in lengths:
        halves = cut(rest, length)
        if halves is None:
            tracer.pin(dim, why="a slice or split runs across the parts that it is made of")
            return list(lengths)
        parts.append(halves[0])
        rest = halves[1]
    return parts


def _replaced(dims: Shape, position: int, dim: DimExpr) -> Shape:
    return [*dims[:position], dim, *dims[position + 1 :]]


@rule(*named("slice"))
def slice_(tracer: AxisTracer, call: Call) -> Shape:
    """A run of positions of one dimension is selected."""
    dims = tracer.dims(call.args[0])
    along = call.arg(1, "dim", 0) % len(dims)
    length, total = call.out.shape[along], size(dims[along])
    first = call.arg(2, "start", 0) or 0
    start = max(0, min(total, first + total if first < 0 else first))
    step = call.arg(4, "step", 1) if call.name == "aten.slice" else 1
    tracer.set(along=along, start=start, step=step)
    if isinstance(dims[along], int) or length == total:
        return _replaced(dims, along, dims[along] if length == total else length)
    if step != 1:
        tracer.pin(dims[along], why="every n-th position is taken")
        return _replaced(dims, along, length)
    return _replaced(dims, along, _pieces(tracer, dims[along], [start, length, total - start - length])[1])


@rule(*named("constant_pad"))
def constant_pad(tracer: AxisTracer, call: Call) -> Shape:
    """New positions are added before and after; they are pinned."""
    dims = list(tracer.dims(call.args[0]))
    widths = call.args[1]
    tracer.set(widths=tuple(widths))
    for step in range(len(widths) // 2):
        index = len(dims) - 1 - step
        before, after = widths[2 * step], widths[2 * step + 1]
        if before < 0 or after < 0:
            tracer.pin(dims[index], why="negative padding removes positions at its ends")
            dims[index] = size(dims[index]) + before + after
        elif before or after:
            dims[index] = concat([before, dims[index], after])
    return dims


@rule(*named("channel_shuffle"))
def channel_shuffle(tracer: AxisTracer, call: Call) -> Shape:
    """Channels (group, channel) become (channel, group)."""
    dims = list(tracer.dims(call.args[0]))
    halves = split(dims[1], call.args[1])
    if halves is None:
        tracer.pin(dims[1], why="its groups run across the parts of the channels")
        return list(call.out.shape)
    tracer.pin(halves[0], why="the number of groups is written into the call")
    return [dims[0], product([halves[1], halves[0]]), *dims[2:]]


@rule(*named("triangle"))
def triangle(tracer: AxisTracer, call: Call) -> Shape:
    """The result depends on the indices in the last two dimensions."""
    dims = list(tracer.dims(call.args[0]))
    tracer.pin(*dims[-2:], why="it keeps a triangle, by the indices of rows and columns")
    return dims


@rule(*named("windows"))
def unfold(tracer: AxisTracer, call: Call) -> Shape:
    """Windows slide along one dimension."""
    dims = list(tracer.dims(call.args[0]))
    along = call.args[1] % len(dims)
    tracer.pin(dims[along], why="windows slide over its positions, which must stay adjacent")
    dims[along] = int(call.out.shape[along])
    return [*dims, int(call.args[2])]


@rule("aten.repeat_interleave")
def repeat_interleave(tracer: AxisTracer, call: Call) -> Shape | None:
    """Each position is repeated: (position, repeat)."""
    times, along = call.arg(1, "repeats"), call.arg(2, "dim")
    if not isinstance(times, int) or along is None:
        return None
    dims = list(tracer.dims(call.args[0]))
    dims[along] = fresh(int(times)) if size(dims[along]) == 1 else product([dims[along], times])
    return dims
