"""Calls callbacks for every module call while a network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

__all__ = ["told_of_calls"]


@contextlib.contextmanager
def told_of_calls(
    model: nn.Module,
    entered: Callable[[str, Sequence[Any], Mapping[str, Any]], None],
    left: Callable[[str, Any], None],
) -> Iterator[None]:
    """Context manager that calls callbacks for each call of a network's modules, including the network itself.

    Args:
        model: network.
        entered: callback before a module runs; takes its dotted path, positional and named arguments.
        left: callback after a module ran; takes its path and its output.
    """
    handles = []
    try:
        for path, module in model.named_modules():
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, args, kwargs, path=path: entered(path, args, kwargs), with_kwargs=True
                )
            )
            handles.append(module.register_forward_hook(lambda module, args, output, path=path: left(path, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()
