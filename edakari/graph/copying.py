"""Copies of a module's structure with other tensors in it, several times as fast as `copy.deepcopy`."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["copied"]

M = TypeVar("M", bound=nn.Module)

EXACT = frozenset({int, float, str, bool, type(None)})
PLAIN = (int, float, str, bool, bytes, type(None), torch.dtype, torch.device, type)


def copied(model: M, tensors: dict[int, torch.Tensor]) -> M:
    """A copy of a module that shares nothing with it that can change; caches of tensors are left behind.

    Args:
        model: the module.
        tensors: what takes the place of a tensor, by the tensor's id; other tensors are copied.
    """
    modules = list(model.modules())
    memo: dict[int, Any] = dict(tensors)
    if any(map(_copies_itself, {type(module) for module in modules})):
        return _deeply(model, modules, memo)
    # shells first, so that whatever refers to a module finds its copy
    for module in modules:
        memo[id(module)] = object.__new__(type(module))
    for module in modules:
        memo[id(module)].__dict__ = {
            name: type(value)() if _is_cache(name, value) else _value(value, memo)
            for name, value in module.__dict__.items()
        }
    result: M = memo[id(model)]
    return result


def _deeply(model: M, modules: Sequence[nn.Module], memo: dict[int, Any]) -> M:
    """A copy by each module's own way, which leaves functions that modules keep as they are."""
    result = copy.deepcopy(model, memo)
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, types.FunctionType) and name in vars(memo[id(module)]):
                vars(memo[id(module)])[name] = _rebound(value, memo)
    return result


def _is_cache(name: str, value: Any) -> bool:
    return "cache" in name and isinstance(value, dict) and any(isinstance(x, torch.Tensor) for x in value.values())


def _copies_itself(cls: type[nn.Module]) -> bool:
    return any(
        getattr(cls, name, None) is not getattr(nn.Module, name, None)
        for name in ("__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__")
    )


def _value(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in EXACT or isinstance(value, PLAIN):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _value(item, memo)) for key, item in value.items()) if value else type(value)()
    if isinstance(value, types.FunctionType):
        return _rebound(value, memo)
    if type(value) in (set, frozenset, list, tuple) and all(isinstance(item, PLAIN) for item in value):
        return type(value)(value)
    return copy.deepcopy(value, memo)


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """A function that a module keeps, such as a lambda over `self`, for the copy of what it refers to."""
    cells = function.__closure__ or ()
    renewed = tuple(types.CellType(memo[id(cell.cell_contents)]) if _holds(cell, memo) else cell for cell in cells)
    if renewed == cells:
        return function
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, renewed
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _holds(cell: types.CellType, memo: dict[int, Any]) -> bool:
    try:
        held = cell.cell_contents
    except ValueError:  # a name that was never given a value
        return False
    return isinstance(held, nn.Module | torch.Tensor) and id(held) in memo
