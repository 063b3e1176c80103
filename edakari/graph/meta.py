"""Fast forward passes on meta tensors: shapes of common operators are computed without torch's decompositions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode

from edakari.graph.operator_mode import OperatorMode
from edakari.graph.operators import named

__all__ = ["execute", "operator_name", "quick_meta"]

Shortcut = Callable[[Sequence[Any], Mapping[str, Any]], Any]

UNARY = (*named("activation", "gate"), "aten._softmax")
BINARY = named("addition", "subtraction", "multiplication", "division")


def execute(name: str, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of an operator or function; if its first argument is a meta tensor, only shape and dtype."""
    shortcut = SHORTCUTS.get(name)
    if shortcut is not None and args and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta":
        result = shortcut(args, kwargs)
        if result is not None:
            return result
    return func(*args, **kwargs)


def operator_name(operator: Any) -> str:
    """Name of an operator without its overload, also for operators that take functions."""
    return f"{operator.namespace}.{getattr(operator, '_opname', None) or operator.name()}"


def _empty(x: torch.Tensor) -> torch.Tensor:
    # `empty_like` is slow on meta, because it preserves a memory order that is not needed here
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


def _unary(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return _empty(args[0]) if args[0].is_floating_point() else None


def _clone(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return torch.empty_like(args[0], memory_format=kwargs.get("memory_format") or torch.preserve_format)


def _in_place(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return args[0]


def _binary(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, y = args[:2]
    if isinstance(y, torch.Tensor) and x.is_floating_point() and x.shape == y.shape and x.dtype == y.dtype:
        return _empty(x)
    return None


def _batch_norm(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x = args[0]
    return _empty(x), x.new_empty(0), x.new_empty(0)


def _batch_norm_function(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return _empty(args[0])


def _convolution(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
    if transposed or x.dtype != weight.dtype or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    space = []
    for index in range(x.dim() - 2):
        step, pad, wide = (each[index % len(each)] for each in (stride, padding, dilation))
        space.append((x.shape[index + 2] + 2 * pad - wide * (weight.shape[index + 2] - 1) - 1) // step + 1)
    if min(space, default=1) < 1:
        return None
    return torch.empty((x.shape[0], weight.shape[0], *space), dtype=x.dtype, device="meta")


def _upsample(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, sizes = args[0], args[1] if len(args) > 1 else None
    if not isinstance(sizes, list | tuple) or len(sizes) != x.dim() - 2:
        return None
    return torch.empty((*x.shape[:2], *sizes), dtype=x.dtype, device="meta")


def _layer_norm(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, normalized = args[:2]
    statistics = x.new_empty([*x.shape[: x.dim() - len(normalized)], *([1] * len(normalized))])
    return x.new_empty(x.shape), statistics, statistics


def _linear(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x = args[0]
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    fits = weight.dim() == 2 and x.dim() > 0 and x.shape[-1] == weight.shape[1] and x.dtype == weight.dtype
    return x.new_empty([*x.shape[:-1], weight.shape[0]]) if fits else None


def _attention(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if len(args) < 3 or args[0].shape[-1] != args[1].shape[-1] or args[1].shape[-2] != args[2].shape[-2]:
        return None
    if args[0].shape[:-2] != args[1].shape[:-2]:
        return None
    return args[0].new_empty([*args[0].shape[:-1], args[2].shape[-1]])


SHORTCUTS: dict[str, Shortcut] = {
    **{name: _in_place if name.endswith("_") else _unary for name in UNARY},
    **{name: _binary for name in BINARY if not name.endswith("_")},
    "aten.clone": _clone,
    **dict.fromkeys(named("batch_norm"), _batch_norm),
    **dict.fromkeys(named("layer_norm"), _layer_norm),
    "aten.convolution": _convolution,
    **dict.fromkeys(named("upsample"), _upsample),
    **dict.fromkeys(named("batch_norm_function"), _batch_norm_function),
    **dict.fromkeys(named("linear_function"), _linear),
    **dict.fromkeys(named("attention"), _attention),
}


WHOLE: dict[Callable[..., Any], str] = {
    F.linear: "linear",
    F.scaled_dot_product_attention: "scaled_dot_product_attention",
    torch.batch_norm: "batch_norm",
}
"""Functions that have a shortcut of their own."""


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = WHOLE.get(func)
        return func(*args, **(kwargs or {})) if name is None else execute(name, func, args, kwargs or {})


def _operator(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return execute(operator_name(func), func, args, kwargs)


@contextlib.contextmanager
def quick_meta() -> Iterator[None]:
    """Context manager in which a forward pass on meta tensors takes a fraction of its usual time."""
    with _Functions(), OperatorMode(_operator):
        yield
