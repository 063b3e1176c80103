"""Integers of a masked network: they are what the dense network's code needs, and know what the cut network would have.

A masked network keeps its dense shapes, so sizes and attributes stay dense. But where code computes with them instead
of shaping tensors (an attention scale `C ** -0.5`, a mean as `x.sum(1) / self.width`), the cut network gets smaller
numbers, and so must the masked one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.space import Sizes
from edakari.graph import copied
from edakari.graph.attributes import Widths, mended

__all__ = ["Counted", "arithmetic", "counted", "with_counts"]


class Counted(int):
    """An integer of the dense network that also knows the cut network's."""

    kept: int

    def __mul__(self, other: Any) -> Any:
        return _both(int.__mul__, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _both(int.__rmul__, self, other)

    def __add__(self, other: Any) -> Any:
        return _both(int.__add__, self, other)

    def __radd__(self, other: Any) -> Any:
        return _both(int.__radd__, self, other)

    def __sub__(self, other: Any) -> Any:
        return _both(int.__sub__, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _both(int.__rsub__, self, other)

    def __floordiv__(self, other: Any) -> Any:
        return _both(int.__floordiv__, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _both(int.__rfloordiv__, self, other)

    # floats are only ever computed with, so these are the cut network's

    def __float__(self) -> float:
        return float(self.kept)

    def __truediv__(self, other: Any) -> Any:
        return self.kept / _kept(other) if isinstance(other, int | float) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.kept if isinstance(other, int | float) else NotImplemented

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        return self.kept**other if isinstance(other, float) or other < 0 else _both(int.__pow__, self, other)


def counted(dense: int, kept: int) -> int:
    """An integer for a masked network; a plain one where nothing is gone."""
    if dense == kept:
        return int(dense)
    made = Counted(dense)
    made.kept = kept
    return made


def _kept(value: Any) -> Any:
    return value.kept if isinstance(value, Counted) else value


def _both(operation: Callable[[int, Any], Any], value: Counted, other: Any) -> Any:
    dense = operation(value, other)
    if dense is NotImplemented or isinstance(dense, float):
        return dense if dense is NotImplemented else operation(value.kept, _kept(other))
    return counted(dense, operation(value.kept, _kept(other)))


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
    """A twin of a network that shares its tensors; what its modules remember counts as in the cut network."""
    tensors = {
        id(value): value
        for module in model.modules()
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        if isinstance(value, torch.Tensor)
    }
    twin = copied(model, tensors)
    for path, module in twin.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            continue  # a cut one is replaced by a module of ours, which takes what it needs from its tensors
        for name, value in mended(module, Widths(graph, path, sizes)).items():
            vars(module)[name] = _twofold(vars(module).get(name), value)
    return twin


def _twofold(dense: Any, kept: Any) -> Any:
    if isinstance(dense, int) and isinstance(kept, int):
        return counted(dense, kept)
    if isinstance(dense, tuple | list) and isinstance(kept, tuple | list) and len(dense) == len(kept):
        return type(dense)(_twofold(before, after) for before, after in zip(dense, kept, strict=True))
    return kept if isinstance(kept, float) else dense
