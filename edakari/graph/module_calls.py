"""Tells of every call of a module while a network runs."""

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
    """Context manager in which callbacks hear of the calls of a network's modules, the network's own included.

    Args:
        model: the network.
        entered: is given a module's dotted path, its positional and its named arguments before the module runs.
        left: is given the path and the output once the module has run.
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
