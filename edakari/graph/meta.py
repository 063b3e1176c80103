"""Fast forward passes on meta tensors: shapes of common operators are computed by `graph/meta_shapes.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode

from edakari.graph.meta_shapes import SHORTCUTS
from edakari.graph.operator_mode import OperatorMode

__all__ = ["execute", "operator_name", "quick_meta"]

Seen = Callable[[Any, Any], None]


def execute(name: str, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of an operator or function; on meta tensors, often by a shortcut."""
    shortcut = SHORTCUTS.get(name)
    if shortcut is not None and args:
        first = args[0]
        if isinstance(first, list | tuple) and first:
            first = first[0]
        if isinstance(first, torch.Tensor) and first.is_meta:
            result = shortcut(args, kwargs)
            if result is not None:
                return result
    return func(*args, **kwargs)


def operator_name(operator: Any) -> str:
    """Name of an operator without its overload, also for operators that take functions."""
    return f"{operator.namespace}.{getattr(operator, '_opname', None) or operator.name()}"


WHOLE: dict[Callable[..., Any], str] = {
    F.linear: "linear",
    F.scaled_dot_product_attention: "scaled_dot_product_attention",
    F.batch_norm: "batch_norm",
    torch.batch_norm: "batch_norm",
    F.layer_norm: "aten.layer_norm",
    F.rms_norm: "aten.rms_norm",
    **dict.fromkeys((torch.rnn_tanh, torch.rnn_relu, torch.gru, torch.lstm), "rnn"),
}
"""Functions that have a shortcut of their own."""


class _Functions(TorchFunctionMode):
    def __init__(self, seen: Seen | None) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = WHOLE.get(func)
        out = func(*args, **(kwargs or {})) if name is None else execute(name, func, args, kwargs or {})
        if self.seen is not None:
            self.seen(func, out)
        return out


def _operator(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return execute(operator_name(func), func, args, kwargs)


@contextlib.contextmanager
def quick_meta(seen: Seen | None = None) -> Iterator[None]:
    """Context manager in which a forward pass on meta tensors takes a fraction of its usual time.

    Args:
        seen: callback with each torch function that the network's code calls, and with its result.
    """
    with _Functions(seen), OperatorMode(_operator):
        yield
