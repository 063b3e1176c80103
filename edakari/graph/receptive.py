"""Receptive fields: which pixels of the input each position of a tensor depends on, from the graph alone.

Along a spatial axis, position u of a tensor sees the input pixels `start + jump·u` to `start + jump·u + size - 1`. A
window of k positions with stride s, padding p and dilation d turns these into `start - p·jump`, `jump·s` and
`size + d·(k - 1)·jump`. Where branches merge, the union is taken; they must agree in the jump.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import torch

from edakari.core.graph import Graph, Operator
from edakari.core.layout import Layout, extent
from edakari.graph.operators import Trait, having, named

__all__ = ["Box", "Field", "box", "is_local", "receptive_fields"]

Box = tuple[int, int, int, int]
"""First row, first column, last row, last column, all included."""


@dc.dataclass(frozen=True, slots=True)
class Field:
    """The receptive field of the positions along one axis, in input pixels.

    Args:
        size: number of pixels that one position sees.
        jump: distance between the first pixels of two neighbouring positions.
        start: first pixel that position 0 sees; below 0 in the padding.
    """

    size: Fraction = Fraction(1)
    jump: Fraction = Fraction(1)
    start: Fraction = Fraction(0)

    def window(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> Field:
        """Return the field of a window over these positions."""
        return Field(
            self.size + dilation * (kernel - 1) * self.jump, self.jump * stride, self.start - padding * self.jump
        )

    def spread(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> Field:
        """Return the field of the positions that a transposed window over these writes."""
        reach = Fraction(dilation * (kernel - 1), stride)
        start = self.start + self.jump * (Fraction(padding, stride) - reach)
        return Field(self.size + reach * self.jump, self.jump / stride, start)

    def resized(self, scale: Fraction, taps: int) -> Field:
        """Return the field after resizing by `scale`, where each position reads at most `taps` neighbours."""
        middle = Fraction(1, 2) / scale - Fraction(1, 2)
        reach = Fraction(taps, 2)
        return Field(self.size + 2 * reach * self.jump, self.jump / scale, self.start + (middle - reach) * self.jump)

    def joined(self, other: Field) -> Field | None:
        """Return the union of two fields; None if their jumps differ."""
        if self.jump != other.jump:
            return None
        start = min(self.start, other.start)
        return Field(max(self.start + self.size, other.start + other.size) - start, self.jump, start)

    def pixels(self, position: int, length: int) -> tuple[int, int]:
        """Return the first and last pixel that a position sees in an image of this length."""
        first = math.ceil(self.start + self.jump * position)
        last = math.floor(self.start + self.jump * position + self.size - 1)
        return max(first, 0), min(last, length - 1)


Seen = Mapping[int, Field]
"""Maps a tensor's spatial dimensions to their receptive fields; empty if all positions are alike."""

State = Seen | None
"""None if a position may depend on any pixel."""


def receptive_fields(graph: Graph) -> dict[int, Seen]:
    """Compute the receptive fields of operators' outputs.

    Tensors that are the same at every position (the gate of a squeeze-and-excitation block, the statistics of a norm)
    are left out of the union: they do not depend on the position.

    Args:
        graph: graph of a network on images, [N, C, H, W].

    Returns:
        By index in `Graph.operators`, a `Field` for each spatial dimension of the operator's first output.
        Operators whose positions may depend on any pixel are left out.
    """
    states: dict[int, State] = {}
    shapes: dict[int, tuple[int, ...]] = {}
    for index, operator in enumerate(graph.operators):
        shapes[index] = _shape(operator.outputs[0])
        operands = [_operand(source, operator, states, shapes) for source in operator.sources]
        states[index] = _seen(operator, shapes[index], operands)
    return {index: state for index, state in states.items() if state}


def box(seen: Seen, position: tuple[int, int], size: tuple[int, int]) -> Box:
    """Return the pixels that a position sees, clipped to the image.

    Args:
        seen: receptive field of the tensor, along two dimensions.
        position: row and column.
        size: height and width of the image.
    """
    rows, columns = (seen[dim] for dim in sorted(seen))
    (top, bottom), (left, right) = rows.pixels(position[0], size[0]), columns.pixels(position[1], size[1])
    return top, left, bottom, right


@dc.dataclass(frozen=True, slots=True)
class _Operand:
    state: State
    shape: tuple[int, ...]


def _operand(
    source: int | None, operator: Operator, states: Mapping[int, State], shapes: Mapping[int, tuple[int, ...]]
) -> _Operand:
    if source is not None:
        return _Operand(states[source], shapes[source])
    shape = _shape(operator.inputs[0])
    # the input of the network; an input that is no image has no pixels
    return _Operand({2: Field(), 3: Field()} if len(shape) == 4 else None, shape)


def _seen(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    rule = RULES.get(operator.name, _local if is_local(operator.name) else None)
    if not any(operand.state is None or operand.state for operand in operands):
        return {}
    return rule(operator, shape, operands) if rule else None


def _local(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    """Each position reads only the same position of its operands."""
    found: dict[int, Field] = {}
    for operand in operands:
        placed = _aligned(operand, shape)
        if placed is None:
            return None
        for dim, field in placed.items():
            merged = found[dim].joined(field) if dim in found else field
            if merged is None:
                return None
            found[dim] = merged
    return found


def _aligned(operand: _Operand, shape: tuple[int, ...]) -> State:
    """Map an operand's fields to the result's dimensions: those of equal length, counted from either end."""
    if operand.state is None:
        return {} if math.prod(operand.shape[2:]) == 1 < math.prod(shape[2:]) else None
    found = {}
    for dim, field in operand.state.items():
        length = operand.shape[dim]
        behind = dim - len(operand.shape)
        if behind >= -len(shape) and operand.shape[behind:] == shape[behind:]:
            found[len(shape) + behind] = field
        elif operand.shape[: dim + 1] == shape[: dim + 1]:
            found[dim] = field
        elif behind >= -len(shape) and length == 1:
            continue
        else:
            return None
    return found


def _windowed(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    given = operator.settings
    kernel = given.get("kernel") or _shape(operator.inputs[1])[2:]
    state = operands[0].state
    if state is None or not set(state) <= {2, 3} or len(shape) != 4 or len(kernel) != 2:
        return None
    found = {}
    for dim, field in state.items():
        stride, padding, dilation = (_each(given[name], dim - 2) for name in ("stride", "padding", "dilation"))
        move = field.spread if given.get("transposed") else field.window
        found[dim] = move(kernel[dim - 2], stride, padding, dilation)
    return found


def _permuted(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    state = operands[0].state
    order: Sequence[int] = operator.settings.get("order", range(len(shape)))
    return None if state is None else {order.index(dim): field for dim, field in state.items()}


def _sliced(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    state, given = operands[0].state, operator.settings
    if state is None or given["along"] not in state:
        return state
    moved = state[given["along"]].window(1, given["step"], -given["start"])
    return {**state, given["along"]: moved}


def _padded(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    state, widths = operands[0].state, operator.settings["widths"]
    if state is None:
        return None
    before = {len(shape) - 1 - index: width for index, width in enumerate(widths[::2])}
    return {dim: field.window(1, 1, before.get(dim, 0)) for dim, field in state.items()}


def _upsampled(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    state, old = operands[0].state, operands[0].shape
    taps = next(count for name, count in TAPS.items() if name in operator.name)
    if state is None:
        return None
    return {dim: field.resized(Fraction(shape[dim], old[dim]), taps) for dim, field in state.items()}


def _linear(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    """The last dimension is mixed, and the others stay."""
    state = operands[0].state
    return None if state is None or len(operands[0].shape) - 1 in state else state


def _still(operator: Operator, shape: tuple[int, ...], operands: Sequence[_Operand]) -> State:
    """Adaptive pooling that does not change the size."""
    same = operands[0].shape == shape
    return operands[0].state if same else None


Rule = Callable[[Operator, tuple[int, ...], Sequence[_Operand]], State]

TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}

RULES: dict[str, Rule] = {
    **dict.fromkeys(named("convolution"), _windowed),
    **dict.fromkeys(named("pool", space=2), _windowed),
    **dict.fromkeys(named("adaptive_pool", space=2), _still),
    **dict.fromkeys(named("permutation", "transposition"), _permuted),
    **dict.fromkeys(named("slice"), _sliced),
    **dict.fromkeys(named("constant_pad"), _padded),
    **dict.fromkeys(named("linear_function", "linear"), _linear),
    **dict.fromkeys(named("upsample", "exact_upsample", space=2), _upsampled),
}

LOCAL = having(Trait.LOCAL)
"""Operators that move nothing along dimensions whose length they preserve, besides those that torch calls pointwise."""


@functools.lru_cache(maxsize=1024)
def is_local(name: str) -> bool:
    """Whether an operator moves nothing along dimensions whose length it preserves."""
    if name in LOCAL:
        return True
    packet = getattr(torch.ops.aten, name.removeprefix("aten."), None) if name.startswith("aten.") else None
    overloads: Iterable[str] = packet.overloads() if packet is not None else ()
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in overloads)


def _shape(layouts: Sequence[Layout]) -> tuple[int, ...]:
    return tuple(int(extent(layout, {})) for layout in layouts)


def _each(value: int | Sequence[int], index: int) -> int:
    given = (value,) if isinstance(value, int) else tuple(value)
    return given[0] if len(given) == 1 else given[index]
