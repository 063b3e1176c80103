"""Integers of a masked network: dense where code shapes tensors, the cut network's where code computes with them.

A masked network keeps its dense shapes, so sizes and attributes stay dense. But where code computes with them instead
of shaping tensors (an attention scale `C ** -0.5`, a mean as `x.sum(1) / self.width`), the cut network gets smaller
numbers, and so must the masked one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from edakari.core.copying import copied_as_is
from edakari.core.graph import Graph
from edakari.core.space import Sizes
from edakari.graph.held import item_of
from edakari.graph.module_attributes import Widths, mended, mended_inside, with_ints
from edakari.graph.tracked_ints import Attribute, Extent, Source, TrackedInt

__all__ = ["MaskedInt", "arithmetic", "masked_int", "with_counts"]


class MaskedInt(TrackedInt):
    """An integer of the dense network that also knows the cut network's."""

    kept: int

    def __mul__(self, other: Any) -> Any:
        return _both("__mul__", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _both("__rmul__", self, other)

    def __add__(self, other: Any) -> Any:
        return _both("__add__", self, other)

    def __radd__(self, other: Any) -> Any:
        return _both("__radd__", self, other)

    def __sub__(self, other: Any) -> Any:
        return _both("__sub__", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _both("__rsub__", self, other)

    def __floordiv__(self, other: Any) -> Any:
        return _both("__floordiv__", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _both("__rfloordiv__", self, other)

    def __float__(self) -> float:
        return float(self.kept)

    def __truediv__(self, other: Any) -> Any:
        return _ratio(self.kept / _kept(other), int(self) / other) if isinstance(other, int | float) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return _ratio(other / self.kept, other / int(self)) if isinstance(other, int | float) else NotImplemented

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        if isinstance(other, int) and other >= 0:
            return _both("__pow__", self, other)
        return _ratio(self.kept**other, int(self) ** other)


class Ratio(float):
    """A float of the cut network for arithmetic; converted to an integer, to be a size, it is the dense network's."""

    dense: float

    def __int__(self) -> int:
        return int(self.dense)

    __trunc__ = __int__

    def __floor__(self) -> int:
        return math.floor(self.dense)

    def __ceil__(self) -> int:
        return math.ceil(self.dense)


def _ratio(kept: float, dense: float) -> Ratio:
    made = Ratio(kept)
    made.dense = dense
    return made


def masked_int(dense: int, kept: int, source: Source) -> int:
    """An integer for a masked network; a plain one where nothing is gone.

    Args:
        dense: its value in the dense network.
        kept: its value in the cut network.
        source: as of any tracked integer.
    """
    return int(dense) if dense == kept else _masked_int(dense, kept, source)


def _masked_int(dense: int, kept: int, source: Source) -> MaskedInt:
    made = MaskedInt(dense)
    made.kept, made.source = kept, source
    return made


def _kept(value: Any) -> Any:
    return value.kept if isinstance(value, MaskedInt) else value


def _both(operation: str, value: MaskedInt, other: Any) -> Any:
    dense = getattr(TrackedInt, operation)(value, other)
    if dense is NotImplemented:
        return dense
    kept = getattr(int, operation)(value.kept, _kept(other))
    return _masked_int(dense, kept, dense.source if isinstance(dense, TrackedInt) else Extent(int(dense)))


ARITHMETIC = frozenset(
    "add add_ sub sub_ rsub mul mul_ div div_ true_divide true_divide_ divide divide_ multiply multiply_ pow pow_ "
    "__add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ "
    "__itruediv__ __rdiv__ __pow__ __rpow__ clamp clamp_ full full_like tensor".split()
)
"""Torch functions to which an integer is a value and not the size of something."""


def arithmetic(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Arguments of a torch function with the cut network's numbers where it computes with them."""
    if getattr(function, "__name__", "") not in ARITHMETIC:
        return args, kwargs
    return tuple(map(_kept, args)), {name: _kept(value) for name, value in kwargs.items()}


def with_counts(model: nn.Module, graph: Graph, sizes: Sizes) -> nn.Module:
    """A twin of a network that shares its tensors; integers in its modules also know their value in the cut network."""
    twin = copied_as_is(model)
    for path, module in twin.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            continue  # a cut one is replaced by a module of ours, which takes what it needs from its tensors
        widths = Widths(graph, path, sizes)
        for name, value in mended(module, widths).items():
            vars(module)[name] = _twofold(getattr(module, name, None), value, path, name)
        inside = list(mended_inside(module, widths))
        with_ints(module, ((name, _inside(module, path, name, count)) for name, count in inside))
    return twin


def _inside(module: nn.Module, path: str, name: str, kept: int) -> int:
    attribute, *keys = name.split(".")
    return masked_int(item_of(getattr(module, attribute), keys), kept, Attribute(path, name))


def _twofold(dense: Any, kept: Any, path: str, name: str) -> Any:
    if isinstance(dense, int) and isinstance(kept, int):
        return masked_int(dense, kept, Attribute(path, name))
    if isinstance(dense, tuple | list) and isinstance(kept, tuple | list) and len(dense) == len(kept):
        pairs = enumerate(zip(dense, kept, strict=True))
        return type(dense)(_twofold(before, after, path, f"{name}.{index}") for index, (before, after) in pairs)
    return kept if isinstance(kept, float) else dense
