"""Calls callbacks for every module call while a network runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.modules import modules_of
from edakari.graph.layer_operators import is_plain, operator_of

__all__ = ["Entered", "Left", "Ran", "told_of_calls"]

Entered = Callable[[str, Sequence[Any], Mapping[str, Any]], None]
Left = Callable[[str, Any], None]
Ran = Callable[[str, Sequence[Any], Mapping[str, Any], Any], None]

CALLING = nn.Module._call_impl.__code__.co_filename
"""File of torch's code that calls `forward` when a module is called."""


@contextlib.contextmanager
def told_of_calls(model: nn.Module, entered: Entered, left: Left, ran: Ran | None = None) -> Iterator[None]:
    """Context manager that calls callbacks for each call of a network's modules, including the network itself.

    The callbacks run without the modes for functions and operators.

    Args:
        model: network.
        entered: callback before a module runs; takes its dotted path, positional and named arguments.
        left: callback after a module ran; takes its path and its output.
        ran: if given, most of torch's own layers do not run their code on meta tensors. Instead, this callback takes
            name, positional and named arguments, and result of their operator.
    """
    handles, replaced = [], []
    try:
        for path, module in modules_of(model):
            if ran is not None and is_plain(module):
                replaced.append(module)
                vars(module)["forward"] = _forward(path, module, entered, left, ran)
            else:
                handles.append(module.register_forward_pre_hook(_entering(path, entered), with_kwargs=True))
                handles.append(module.register_forward_hook(_leaving(path, left)))
        yield
    finally:
        for module in replaced:
            del vars(module)["forward"]
        for handle in handles:
            handle.remove()


def _entering(path: str, entered: Entered) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        with torch._C.DisableTorchFunction():
            entered(path, args, kwargs)

    return hook


def _leaving(path: str, left: Left) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        with torch._C.DisableTorchFunction():
            left(path, output)

    return hook


def _forward(path: str, layer: nn.Module, entered: Entered, left: Left, ran: Ran) -> Callable[..., Any]:
    """What a layer runs while it is called."""
    code = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1)
        if caller.f_code.co_filename != CALLING:
            return code(*args, **kwargs)  # other code calls this method without calling the layer
        called = caller.f_locals["self"]  # the layer, or a copy that the network made while it runs
        result = None
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            entered(path, args, kwargs)
            operator = operator_of(called, args[0]) if len(args) == 1 and not kwargs else None
            out = operator.run() if operator is not None else None
            if operator is not None and out is not None:
                if operator.name:
                    ran(operator.name, operator.args, operator.kwargs, out)
                result = out[0] if isinstance(out, tuple) else out
                left(path, result)
        if result is None:
            result = type(layer).forward(called, *args, **kwargs)
            with torch._C.DisableTorchFunction():
                left(path, result)
        return result

    return forward
