"""Copies of all values that a network holds, each made once, by type of value."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import contextvars
import copy
import copyreg
import enum
import functools
import gc
import io
import logging
import re
import socket
import subprocess
import threading
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.globals import globals_for, reachable

__all__ = ["ATOMIC", "Copier"]

ATOMIC = frozenset(
    (
        *(type(None), bool, int, float, complex, str, bytes, type, range, slice, type(...), type(NotImplemented)),
        *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format),
        *(types.ModuleType, types.CodeType),
    )
)
CONTAINERS = frozenset((dict, collections.OrderedDict, list, set))
"""Types of containers that each module holds a dozen times empty: its hooks."""

SHARED = (
    *(type, int, float, str, bytes, enum.Enum, types.ModuleType, re.Pattern, property, staticmethod, classmethod),
    *(type(threading.Lock()), type(threading.RLock()), threading.Thread, threading.local, concurrent.futures.Executor),
    *(contextvars.ContextVar, io.IOBase, socket.socket, subprocess.Popen, logging.Logger, logging.Handler),
    *(torch.jit.ScriptFunction, torch.cuda.Stream, torch.cuda.Event),
    *((torch.distributed.ProcessGroup,) if torch.distributed.is_available() else ()),
)
"""Types of values that copies share: immutable values, or objects outside the network."""

VIEWS: dict[type[Any], Callable[[Any], Any]] = {
    type({}.keys()): lambda found: found.keys(),
    type({}.values()): lambda found: found.values(),
    type({}.items()): lambda found: found.items(),
    type(collections.OrderedDict().keys()): lambda found: found.keys(),
    type(collections.OrderedDict().values()): lambda found: found.values(),
    type(collections.OrderedDict().items()): lambda found: found.items(),
    types.MappingProxyType: types.MappingProxyType,
}


class Copier:
    """Copies values, each one once.

    Args:
        root: object that holds all values to copy.
        memo: known copies, by the id of the original.
    """

    def __init__(self, root: Any, memo: Mapping[int, Any]) -> None:
        self.root = root
        self.memo = dict(memo)
        self.alive: list[Any] = []
        """Objects in `memo` that nothing else holds, kept alive so that their ids are not reused."""

    @functools.cached_property
    def held(self) -> set[int]:
        """Return the ids of all objects that the root holds."""
        return reachable(self.root)

    def __call__(self, value: Any) -> Any:
        """Copy a value; immutable and shared values are returned themselves."""
        cls = type(value)
        if cls in ATOMIC:
            return value
        memo, key = self.memo, id(value)
        known = memo.get(key, self)
        if known is not self:
            return known
        made = memo[key] = cls() if cls in CONTAINERS and not value else _COPY.get(cls, Copier._other)(self, value)
        return made

    def _dict(self, value: Any) -> Any:
        made = self.memo[id(value)] = type(value)()
        for key, item in value.items():
            made[key if type(key) is str else self(key)] = self(item)
        return made

    def _defaultdict(self, value: Any) -> Any:
        made = self.memo[id(value)] = type(value)(self(value.default_factory))
        for key, item in value.items():
            made[self(key)] = self(item)
        return made

    def _list(self, value: Any) -> Any:
        made = self.memo[id(value)] = []
        made.extend(map(self, value))
        return made

    def _deque(self, value: Any) -> Any:
        made = self.memo[id(value)] = collections.deque(maxlen=value.maxlen)
        made.extend(map(self, value))
        return made

    def _set(self, value: Any) -> Any:
        made = self.memo[id(value)] = set()
        made.update(map(self, value))
        return made

    def _frozen(self, value: Any) -> Any:
        """Copy a tuple or frozenset; return it if no element changes."""
        if ATOMIC.issuperset(map(type, value)):
            return value
        items = list(map(self, value))
        if id(value) in self.memo:  # it holds itself
            return self.memo[id(value)]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else type(value)(items)

    def _view(self, value: Any) -> Any:
        (mapping,) = gc.get_referents(value)
        return VIEWS[type(value)](self(mapping))

    def _method(self, value: Any) -> Any:
        return types.MethodType(self(value.__func__), self(value.__self__))

    def _method_of_c(self, value: Any) -> Any:
        owner = getattr(value, "__self__", None)
        if owner is None or isinstance(owner, type | types.ModuleType):
            return value
        return getattr(self(owner), value.__name__)

    def _partial(self, value: Any) -> Any:
        made = type(value)(self(value.func), *map(self, value.args), **{k: self(v) for k, v in value.keywords.items()})
        vars(made).update({name: self(item) for name, item in vars(value).items()})
        return made

    def _cached_function(self, value: Any) -> Any:
        """Copy a function with `functools.lru_cache` without its cache, which may hold tensors of other widths."""
        function = self(value.__wrapped__)
        return value if function is value.__wrapped__ else functools.lru_cache(**value.cache_parameters())(function)

    def _function(self, value: types.FunctionType) -> Any:
        """Copy a function with its closure, defaults and attributes; return it if nothing in it changes."""
        compiled_from = vars(value).get("_torchdynamo_orig_callable")
        if compiled_from is not None:
            return self(compiled_from)
        known = globals_for(value, lambda each: self(each) if id(each) in self.held else each)
        if known is None and not value.__closure__:
            items = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *vars(value).values())
            if all(self(item) is item for item in items):
                return value
        cells = [self.memo.get(id(cell), types.CellType()) for cell in value.__closure__ or ()]
        made = types.FunctionType(
            value.__code__, value.__globals__ if known is None else known, value.__name__, None, tuple(cells)
        )
        self.memo[id(value)] = made
        for cell, new in zip(value.__closure__ or (), cells, strict=True):
            if id(cell) not in self.memo:
                self.memo[id(cell)] = new
                with contextlib.suppress(ValueError):  # a name that was never given a value
                    new.cell_contents = self(cell.cell_contents)
        made.__defaults__, made.__kwdefaults__ = self(value.__defaults__), self(value.__kwdefaults__)
        made.__qualname__, made.__module__ = value.__qualname__, value.__module__
        vars(made).update({name: self(item) for name, item in vars(value).items()})
        return made

    def _reference(self, value: Any) -> Any:
        target = value()
        made = self._referent(target)
        return value if made is target else weakref.ref(made, value.__callback__)

    def _proxy(self, value: Any) -> Any:
        target = value.__reduce_ex__.__self__
        made = self._referent(target)
        return value if made is target else weakref.proxy(made)

    def _referent(self, value: Any) -> Any:
        """The target of a weak reference in the copy; the original object if the network does not hold it."""
        return self(value) if id(value) in self.memo or id(value) in self.held else value

    def _weak_items(self, value: Any) -> Any:
        made = self.memo[id(value)] = type(value)()
        keys, values = (self._referent, self) if type(value) is weakref.WeakKeyDictionary else (self, self._referent)
        for key, item in value.items():
            made[keys(key)] = values(item)
        return made

    def _weak_set(self, value: Any) -> Any:
        return weakref.WeakSet(map(self._referent, value))

    def _other(self, value: Any) -> Any:
        if isinstance(value, SHARED):
            return value
        if isinstance(value, torch.Tensor):
            return self.copy_tensor(value)
        if isinstance(value, nn.Module):
            return self.copy_module(value)
        return self.by_own_way(value)

    def copy_tensor(self, value: torch.Tensor) -> torch.Tensor:
        """Copy a tensor; a tensor from an earlier pass is detached."""
        if value.is_leaf and not value.is_inference():
            return copy.deepcopy(value, self.memo)
        return value.detach().clone()  # of an earlier pass: its history is that of the network's own weights

    def copy_module(self, value: nn.Module) -> nn.Module:
        """Copy a module; copiers of networks implement this."""
        raise NotImplementedError

    def by_own_way(self, value: Any) -> Any:
        """Copy an object by its own `__deepcopy__`, or as `copy.deepcopy` does."""
        cls = type(value)
        own = getattr(cls, "__deepcopy__", None)
        if own is not None:
            return own(value, self.memo)
        reduce = copyreg.dispatch_table.get(cls)
        parts: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(parts, str):
            return value
        self.alive.append(parts)
        make, args, state, items, pairs, put = _padded(parts)
        made = self.memo[id(value)] = make(*map(self, args))
        if state is not None:
            _put_state(made, self(state), put)
        for item in list(items or ()):
            self.alive.append(item)
            made.append(self(item))
        for pair in list(pairs or ()):
            self.alive.append(pair)
            made[self(pair[0])] = self(pair[1])
        return made


def _padded(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pad the result of `__reduce_ex__` to six parts."""
    return parts + (None,) * (6 - len(parts))


def _put_state(made: Any, state: Any, put: Callable[[Any, Any], None] | None) -> None:
    if put is not None:
        put(made, state)
    elif hasattr(made, "__setstate__"):
        made.__setstate__(state)
    else:
        attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        if attributes:
            vars(made).update(attributes)
        for name, item in (slots or {}).items():
            setattr(made, name, item)


_COPY: dict[type[Any], Callable[[Copier, Any], Any]] = {
    dict: Copier._dict,
    collections.OrderedDict: Copier._dict,
    collections.Counter: Copier._dict,
    collections.defaultdict: Copier._defaultdict,
    list: Copier._list,
    collections.deque: Copier._deque,
    set: Copier._set,
    tuple: Copier._frozen,
    frozenset: Copier._frozen,
    types.FunctionType: Copier._function,
    types.MethodType: Copier._method,
    types.BuiltinMethodType: Copier._method_of_c,
    types.MethodWrapperType: Copier._method_of_c,
    functools.partial: Copier._partial,
    type(functools.lru_cache(len)): Copier._cached_function,
    weakref.ref: Copier._reference,
    weakref.ProxyType: Copier._proxy,
    weakref.CallableProxyType: Copier._proxy,
    weakref.WeakKeyDictionary: Copier._weak_items,
    weakref.WeakValueDictionary: Copier._weak_items,
    weakref.WeakSet: Copier._weak_set,
    **dict.fromkeys(VIEWS, Copier._view),
}
