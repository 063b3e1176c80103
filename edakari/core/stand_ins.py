"""What stands in for a method or a parameter of one module: an attribute of the instance, which Python finds first.

The module keeps its class and its parameters' names, and is as it was when the stand-in is taken off.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["has_stand_in", "put_stand_in", "take_stand_in_off"]


def has_stand_in(module: nn.Module, name: str = "forward") -> bool:
    """Whether something stands in for an attribute of a module."""
    return name in vars(module)


def put_stand_in(module: nn.Module, value: Any, name: str = "forward") -> Any:
    """Let a value stand in for an attribute of a module.

    Args:
        module: changed in place.
        value: that is found instead.
        name: of the method or parameter.

    Returns:
        What stood in for it before, None where nothing did.
    """
    before = vars(module).get(name)
    vars(module)[name] = value
    return before


def take_stand_in_off(module: nn.Module, name: str = "forward", before: Any = None) -> None:
    """Let an attribute of a module be found again.

    Args:
        module: changed in place; stays as it is where nothing stands in.
        name: of the method or parameter.
        before: what stood in for it earlier, which is put back; None for nothing.
    """
    vars(module).pop(name, None)
    if before is not None:
        vars(module)[name] = before
