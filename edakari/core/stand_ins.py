"""Replacements for a method or a parameter of one module, as attributes of the instance, which Python finds first.

The module keeps its class and its parameter names. Removing the replacement restores the module.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["has_stand_in", "put_stand_in", "take_stand_in_off"]


def has_stand_in(module: nn.Module, name: str = "forward") -> bool:
    """Return whether an attribute of a module is replaced."""
    return name in vars(module)


def put_stand_in(module: nn.Module, value: Any, name: str = "forward") -> Any:
    """Replace an attribute of a module by a value.

    Args:
        module: the module, changed in place.
        value: the replacement.
        name: name of the method or parameter.

    Returns:
        The previous replacement, or None.
    """
    before = vars(module).get(name)
    vars(module)[name] = value
    return before


def take_stand_in_off(module: nn.Module, name: str = "forward", before: Any = None) -> None:
    """Remove the replacement of an attribute of a module.

    Args:
        module: the module, changed in place; unchanged if nothing is replaced.
        name: name of the method or parameter.
        before: the previous replacement to restore, or None.
    """
    vars(module).pop(name, None)
    if before is not None:
        vars(module)[name] = before
