"""Module-level state that the code of a network uses: what of it belongs to the program, and what to the network."""

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
"""Packages whose own functions keep no state of a network."""

CONSTANT = (
    *(int, float, complex, str, bytes, type(None), type, types.ModuleType, types.BuiltinFunctionType),
    *(logging.Logger, torch.dtype, torch.device, torch.Tensor, nn.Module),
)
"""Globals that no code changes in place, or that are no containers of state."""


@functools.lru_cache(maxsize=4096)
def _names_of(code: types.CodeType) -> frozenset[str]:
    """The names of globals and attributes that code uses, that of functions inside of it included."""
    inside = (_names_of(each) for each in code.co_consts if isinstance(each, types.CodeType))
    return frozenset(code.co_names).union(*inside)


def used_by_forward(modules: Iterable[nn.Module]) -> list[Any]:
    """The state of classes and modules of Python that the code of a network uses while it runs.

    A copy of the network runs the same classes, so their code goes on to use these very objects. Methods are followed
    by their names, from `forward` on; those that run at construction alone are left out.

    Args:
        modules: of the network.
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
    """The functions behind what stands in a class."""
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
    """Ids of all that an object holds, at whatever depth; module-level state that code uses by name is not held."""
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
    """Globals for a function that a copy keeps, where it uses state by name that the network holds too.

    Args:
        function: that a module keeps, such as a hook.
        copy_of: gives the copy of an object, or the object itself where the network does not hold it.
        running: functions that lead to this one.

    Returns:
        The globals that the function's code names, with the copies in them; None where nothing changes.
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
    """A function with other globals."""
    made = types.FunctionType(function.__code__, found, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
    made.__dict__.update(function.__dict__)
    return made
