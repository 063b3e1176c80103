"""Module-level state that a network's code uses, divided into state of the program and of the network."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["globals_for", "reachable", "used_by_forward"]

FOREIGN = ("torch", "numpy", "builtins")
"""Packages whose functions hold no state of a network."""

CONSTANT = (
    *(int, float, complex, str, bytes, type(None), type, types.ModuleType, types.BuiltinFunctionType),
    *(logging.Logger, torch.dtype, torch.device, torch.Tensor, nn.Module),
)
"""Types of globals that are immutable, or that hold no state."""


@functools.lru_cache(maxsize=4096)
def _names_of(code: types.CodeType) -> frozenset[str]:
    """The names of globals and attributes that code uses, including its inner functions."""
    inside = (_names_of(each) for each in code.co_consts if isinstance(each, types.CodeType))
    return frozenset(code.co_names).union(*inside)


def used_by_forward(modules: Iterable[nn.Module]) -> list[Any]:
    """Find the state of classes and Python modules that a network's code uses while it runs.

    A copy of the network has the same classes, so their code continues to use these objects. Methods are followed by
    name, starting at `forward`; methods that only run at construction are omitted.

    Args:
        modules: modules of the network.
    """
    methods: dict[str, list[types.FunctionType]] = {}
    found: dict[int, Any] = {}
    for cls in {base for module in modules for base in type(module).__mro__ if not _is_foreign(base)}:
        for name, value in vars(cls).items():
            functions = list(_functions(value))
            methods.setdefault(name, []).extend(functions)
            if not functions and not isinstance(value, CONSTANT):
                found[id(value)] = value
    waiting, seen = list(methods.get("forward", ())), set[types.CodeType]()
    while waiting:
        function = waiting.pop()
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        names = _names_of(function.__code__)
        waiting.extend(method for name in names if not name.startswith("__") for method in methods.get(name, ()))
        for value in (*(function.__globals__.get(name) for name in names), *_closed_over(function)):
            if isinstance(value, types.FunctionType):
                waiting.extend([] if _is_foreign(value) else [value])
            elif not isinstance(value, CONSTANT):
                found[id(value)] = value
    return list(found.values())


def _closed_over(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a name that was never given a value
            yield cell.cell_contents


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """Yield the functions of a class attribute."""
    if isinstance(value, property):
        parts: tuple[Any, ...] = (value.fget, value.fset)
    elif isinstance(value, functools.cached_property):
        parts = (value.func,)
    else:
        parts = (getattr(value, "__func__", value),)
    yield from (part for part in parts if isinstance(part, types.FunctionType))


def _is_foreign(value: Any) -> bool:
    return (getattr(value, "__module__", None) or "").split(".")[0] in FOREIGN


def reachable(root: Any) -> set[int]:
    """Return the ids of all objects that an object holds, at any depth, without module-level state."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, type | types.ModuleType | types.CodeType | torch.Tensor):
            continue
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            waiting.extend((value.__closure__, value.__defaults__, value.__kwdefaults__, value.__dict__))
        else:
            waiting.extend(gc.get_referents(value))
    return seen


def globals_for(
    function: types.FunctionType,
    copy_of: Callable[[Any], Any],
    running: frozenset[types.FunctionType] = frozenset(),
) -> dict[str, Any] | None:
    """Make globals for a copied function that uses state by name which the network also holds.

    Args:
        function: a function that a module holds, such as a hook.
        copy_of: function that returns an object's copy, or the object itself if the network does not hold it.
        running: functions that refer to this one.

    Returns:
        The globals that the function's code names, with copies; None if nothing changes.
    """
    if _is_foreign(function) or function in running:
        return None

    def renewed(value: Any) -> Any:
        if isinstance(value, types.FunctionType):
            found = globals_for(value, copy_of, running | {function})
            return value if found is None else with_globals(value, found)
        return value if isinstance(value, CONSTANT) else copy_of(value)

    known = function.__globals__
    names = [name for name in _names_of(function.__code__) if name in known]
    changed = {name: value for name in names if (value := renewed(known[name])) is not known[name]}
    if not changed:
        return None
    # only what the code names, so that a copy keeps nothing else of a notebook alive
    own = {"__name__", "__builtins__", "__file__", "__package__"}.intersection(known)
    return {name: known[name] for name in (*own, *names)} | changed


def with_globals(function: types.FunctionType, found: dict[str, Any]) -> types.FunctionType:
    """Copy a function with other globals."""
    made = types.FunctionType(function.__code__, found, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
    made.__dict__.update(function.__dict__)
    return made
