"""How the shape of a module's output follows from those of its inputs, from the operators that a trace recorded.

Each dimension of the output either follows one dimension of an input (the same length, or through windows, strides
and factors), or does not depend on the input (the channels that a layer writes).
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from edakari.core.graph import OutputShape, Step
from edakari.graph.algebra import leaves, size
from edakari.graph.operators import REDUCTIONS, named
from edakari.graph.receptive import is_local
from edakari.graph.records import CallRecord, OperatorRecord, Shape

__all__ = ["output_shape", "stepped"]

Follows = tuple[int, int, tuple[Step, ...]] | None
"""See `OutputShape.dims`."""

LARGEST_DENOMINATOR = 64
"""Other scales of upsampling are not followed: their rounding is torch's own."""


_Known = dict[tuple[int | None, tuple[int, ...]], tuple[Follows, ...] | None]
"""What a tensor's dimensions follow, by its record and shape: inputs and constants have no record."""


@dc.dataclass(frozen=True, slots=True)
class _Operand:
    """A tensor that an operator reads: its shape in the trace, and what its dimensions follow; None if unknown."""

    shape: tuple[int, ...]
    follows: tuple[Follows, ...] | None


def output_shape(call_record: CallRecord, records: Sequence[OperatorRecord]) -> OutputShape | None:
    """Find how the shape of a module's first output follows from its inputs; None if that is unknown.

    Args:
        call_record: call of the module.
        records: records of the forward pass.
    """
    made = call_record.output_sources[0] if call_record.outputs else None
    if made is None:
        return None
    before, after = list(map(_sizes, call_record.inputs)), _sizes(call_record.outputs[0])
    unchanged = [tuple((index, dim, ()) for dim in range(len(shape))) for index, shape in enumerate(before)]
    known: _Known = {}
    for source, shape, follows in zip(call_record.input_sources, before, unchanged, strict=True):
        known.setdefault((source, shape), follows)
    for index in call_record.indices:
        known[index, _sizes(records[index].outputs[0])] = _followed(records[index], known)
    found = known.get((made, after))
    if found is None and before and before[0] == after:
        found = _as_the_input(call_record.inputs[0], call_record.outputs[0])
    if found is None or _reached(found, before, after) != after:
        return None
    return OutputShape(made, found)


def _as_the_input(before: Shape, after: Shape) -> tuple[Follows, ...]:
    """An output of the input's shape follows it, except for dimensions that may be cut on either side."""
    pairs = enumerate(zip(before, after, strict=True))
    return tuple(None if any(leaves(old)) or any(leaves(new)) else (0, dim, ()) for dim, (old, new) in pairs)


def _followed(record: OperatorRecord, known: _Known) -> tuple[Follows, ...] | None:
    """What the dimensions of an operator's first output follow; None if that is unknown."""
    operands = []
    for argument, dims in zip(record.arguments, record.inputs, strict=True):
        shape = _sizes(dims)
        follows = (None,) * len(shape) if isinstance(argument, str) else known.get((argument, shape))
        operands.append(_Operand(shape, follows))
    rule = RULES.get(record.name, _position_by_position if is_local(record.name) else None)
    if rule is None or not any(operand.follows for operand in operands):
        return None
    return rule(record, _sizes(record.outputs[0]), operands)


def _position_by_position(
    record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]
) -> tuple[Follows, ...] | None:
    """Operands are broadcast: each dimension follows an operand that has its length."""
    found: dict[int, Follows] = {}
    for operand in operands:
        offset = len(shape) - len(operand.shape)
        if operand.follows is None or offset < 0:
            continue
        for dim, (length, follows) in enumerate(zip(operand.shape, operand.follows, strict=True), start=offset):
            if length == shape[dim] and found.get(dim) is None:
                found[dim] = follows
    return tuple(found[dim] for dim in range(len(shape))) if len(found) == len(shape) else None


def _viewed(record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]) -> tuple[Follows, ...] | None:
    """The first dimensions stay, and what is split or joined behind them follows no input: heads and channels."""
    before, follows = operands[0].shape, operands[0].follows
    pairs = list(zip(before, shape, strict=False))
    kept = next((dim for dim, (old, new) in enumerate(pairs) if old != new), len(pairs))
    if follows is None or any(follows[kept:]):
        return None
    return (*follows[:kept], *[None] * (len(shape) - kept))


def _reduced(
    record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]
) -> tuple[Follows, ...] | None:
    """A dimension over which values are summed, and which stays, has length 1."""
    before, follows = operands[0].shape, operands[0].follows
    if follows is None or len(before) != len(shape):
        return None
    return tuple(follows[dim] if before[dim] == length else None for dim, length in enumerate(shape))


def _windowed(
    record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]
) -> tuple[Follows, ...] | None:
    """A convolution or a pool: its windows move over the last dimensions."""
    given, x = record.settings, operands[0]
    kernel = given.get("kernel") or operands[1].shape[2:]
    if x.follows is None or given.get("ceil", False) or not all(x.follows[-len(kernel) :]):
        return None
    if "kernel" in given and tuple(kernel) == x.shape[-len(kernel) :]:
        return None  # code may compute the window from the size of the image
    space = len(kernel)
    found = list(x.follows[:-space])
    if "kernel" not in given:
        found[1] = None  # the channels that the convolution writes
    for index, width in enumerate(kernel):
        stride, padding, dilation = (_each(given[name], index) for name in ("stride", "padding", "dilation"))
        reach = dilation * (width - 1) - 2 * padding
        if given.get("transposed"):
            step = (stride, reach + _each(given["output_padding"], index) + 1 - stride, 1)
        else:
            step = (1, stride - reach - 1, stride)
        found.append(_after(x.follows[index - space], step))
    return tuple(found)


def _linear(record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]) -> tuple[Follows, ...] | None:
    follows = operands[0].follows
    return None if follows is None else (*follows[:-1], None)


def _adaptive(
    record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]
) -> tuple[Follows, ...] | None:
    follows = operands[0].follows
    if follows is None or max(shape[2:]) > 1:  # code may compute a larger size from that of another tensor
        return None
    return tuple(None if dim >= 2 else each for dim, each in enumerate(follows))


def _permuted(
    record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]
) -> tuple[Follows, ...] | None:
    follows, order = operands[0].follows, record.settings.get("order")
    return None if follows is None or order is None else tuple(follows[dim] for dim in order)


def _upsampled(
    record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]
) -> tuple[Follows, ...] | None:
    follows, scales = operands[0].follows, record.settings.get("scales")
    if follows is None or scales is None:
        return None
    found = list(follows)
    for index, scale in enumerate(scales, start=len(follows) - len(scales)):
        exact = Fraction(scale).limit_denominator(LARGEST_DENOMINATOR)
        if float(exact) != scale:
            return None
        found[index] = _after(found[index], (exact.numerator, 0, exact.denominator))
    return tuple(found)


def _joined(record: OperatorRecord, shape: tuple[int, ...], operands: Sequence[_Operand]) -> tuple[Follows, ...] | None:
    """A concatenation along channels: their number is a layout of the graph."""
    follows = operands[0].follows
    along = [dim for dim, length in enumerate(operands[0].shape) if length != shape[dim]]
    if follows is None or along != [1]:
        return None
    return tuple(None if dim == 1 else each for dim, each in enumerate(follows))


def _after(follows: Follows, step: Step) -> Follows:
    """Add a step. A window after a window is a window: two rounded divisions are one."""
    if follows is None or step == (1, 0, 1):
        return follows
    index, dim, steps = follows
    factor, shift, divisor = step
    if steps and factor == 1:
        first, moved, divided = steps[-1]
        return index, dim, (*steps[:-1], (first, moved + shift * divided, divided * divisor))
    return index, dim, (*steps, step)


def stepped(length: int, steps: Sequence[Step]) -> int:
    """Return what becomes of a length."""
    for factor, shift, divisor in steps:
        length = (length * factor + shift) // divisor
    return length


def _reached(follows: Sequence[Follows], before: Sequence[Sequence[int]], after: Sequence[int]) -> tuple[int, ...]:
    """The shape of the output in the trace; dimensions that follow nothing have their own length."""
    if len(follows) != len(after):
        return ()
    pairs = zip(follows, after, strict=True)
    return tuple(length if each is None else stepped(before[each[0]][each[1]], each[2]) for each, length in pairs)


def _sizes(dims: Shape) -> tuple[int, ...]:
    return tuple(map(size, dims))


def _each(value: Sequence[int], index: int) -> int:
    return value[index] if len(value) > 1 else value[0]


Rule = Callable[[OperatorRecord, tuple[int, ...], Sequence[_Operand]], tuple[Follows, ...] | None]

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(named("convolution", "pool"), _windowed),
    **dict.fromkeys(named("adaptive_pool"), _adaptive),
    **dict.fromkeys(named("linear_function", "linear"), _linear),
    **dict.fromkeys(named("permutation", "transposition"), _permuted),
    **dict.fromkeys(named("upsample", "exact_upsample", "smooth_upsample"), _upsampled),
    **dict.fromkeys(named("view"), _viewed),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(named("concatenation"), _joined),
    **dict.fromkeys(named("softmax", "rms_norm", "response_norm"), _position_by_position),
}
