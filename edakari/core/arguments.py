"""Checks of arguments' types, with one clear error before an argument is used."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edakari.errors import WrongArgument

__all__ = ["found_as", "require", "require_methods"]


def require(call: str, **given: tuple[Any, type | tuple[type, ...]]) -> None:
    """Raise an error for an argument of a wrong type.

    Args:
        call: the function and its arguments, such as "save(model, plan, folder)".
        given: for each argument, its value and the accepted type or types.

    Raises:
        WrongArgument: an argument has a wrong type; the message names the first, the accepted type and what was found.
    """
    for name, (value, kinds) in given.items():
        if not isinstance(value, kinds):
            every = kinds if isinstance(kinds, tuple) else (kinds,)
            wanted = " or ".join(kind.__name__ for kind in every if kind is not type(None))
            raise WrongArgument(f"{call}: {name} takes a {wanted}, but got {found_as(value)}")


def require_methods(call: str, name: str, value: Any, methods: Sequence[str]) -> None:
    """Raise an error for an argument that is not an object with some methods.

    Args:
        call: the function and its arguments.
        name: name of the argument.
        value: value of the argument.
        methods: names of the methods that it must have.

    Raises:
        WrongArgument: the argument is a class, a function or another object; the message says what was found.
    """
    if inspect.isclass(value) or not all(callable(getattr(value, method, None)) for method in methods):
        wanted = " and ".join(f"{method}(...)" for method in methods)
        raise WrongArgument(f"{call}: {name} takes an object with {wanted}, but got {found_as(value)}")


def found_as(value: Any) -> str:
    """Describe a wrong value for an error message, with advice if there is any."""
    if inspect.isclass(value):
        return f"the class {value.__name__}; make one of it first: {value.__name__}(...)"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    if isinstance(value, str | Path | int | float | None):
        return repr(value) if not isinstance(value, str) else f"the text {value!r}"
    from torch import nn  # the report and the command line need none of it otherwise

    if isinstance(value, nn.Module):
        return f"the network {type(value).__name__} (are the arguments in another order?)"
    return f"a {type(value).__name__} (are the arguments in another order?)"
