"""Copies of networks; all packages use this module.

A copy shares no mutable state with the network. Each object that modules hold is copied once, even if several modules
hold it: containers, objects, functions with their closures, bound methods, hooks. So a copy behaves like a second
network built by the same code. State of the program is shared: classes, Python modules, loggers, locks, threads, open
handles, and module-level state, unless the network holds it, too.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn

from edakari.core.copier import ATOMIC, Copier
from edakari.core.globals import used_by_forward
from edakari.core.modules import modules_of
from edakari.core.wrappers import inner
from edakari.errors import ModelError

__all__ = ["copied", "copied_as_is"]

M = TypeVar("M", bound=nn.Module)

UNIQUE = ("__dict__", "__weakref__")
HOOKS = frozenset(name for name, value in vars(nn.Module()).items() if type(value) is OrderedDict)
"""Attributes in which modules store their hooks."""
NOT_COPIED = frozenset({"_compiled_call_impl"})
"""Attributes of modules that are bound to the original module."""


def copied(model: M, tensors: Mapping[int, torch.Tensor] | None = None) -> M:
    """Copy a network; the copy shares no mutable state with it.

    Hooks keep their order and their ids, and tied parameters stay tied. Tensors from an earlier pass are detached.
    Compiled parts are copied in their uncompiled form. Caches (dictionaries of tensors with "cache" in their name) are
    emptied, and hooks on tensors are not copied.

    Args:
        model: the network; it does not change.
        tensors: replacements for tensors, by the tensor's id; other tensors are copied.

    Returns:
        The copy, without a wrapper that `inner` knows.

    Raises:
        ModelError: the network holds an object that cannot be copied; the message says where.
    """
    return cast(M, _Copier(model, tensors or {}).network())


def copied_as_is(model: M) -> M:
    """Copy a network's modules and the objects they hold, but share the network's tensors."""
    return cast(M, _CopierOfStructure(model, {}).network())


class _Copier(Copier):
    """Copies a network's modules."""

    def __init__(self, model: nn.Module, tensors: Mapping[int, torch.Tensor]) -> None:
        super().__init__(model, tensors)
        self.model = model
        self.shells: set[int] = set()
        self.filled: set[int] = set()
        self.running: set[int] = set()

    def network(self) -> nn.Module:
        """Return the copy of the network."""
        parts = {path: module for path, module in modules_of(self.model) if inner(module) is None}
        self.keep(used_by_forward(parts.values()))
        self.leave_empty(parts.values())
        self.add_shells(parts.values())
        with torch.inference_mode(False):  # tensors made in it could not be trained
            for path, module in parts.items():
                self.fill(path, module)
            return cast(nn.Module, self(self.model))

    def keep(self, values: Sequence[Any]) -> None:
        """Register objects that are shared instead of copied."""
        self.alive.extend(values)
        self.memo.update({id(value): value for value in values})

    def leave_empty(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            for name, value in vars(module).items():
                if "cache" in name and isinstance(value, dict) and _has_tensors(value):
                    empty = self.memo.setdefault(id(value), copy.copy(value))
                    if empty is not value:
                        empty.clear()

    def add_shells(self, modules: Iterable[nn.Module]) -> None:
        """Make empty copies of modules first, so that every reference to a module finds its copy."""
        for module in modules:
            if not _copies_itself(type(module)):
                self.memo[id(module)] = object.__new__(_class_for(module))
                self.shells.add(id(module))

    def fill(self, path: str | None, module: nn.Module) -> None:
        """Copy the content of a module.

        Args:
            path: path of the module in the network, for error messages; None for a module inside another object.
            module: the module whose empty copy was made.

        Raises:
            ModelError: something in it cannot be copied.
        """
        name = ""
        try:
            if id(module) not in self.shells:
                self(module)
                return
            if id(module) in self.filled:
                return
            self.filled.add(id(module))
            own, content = vars(self.memo[id(module)]), vars(module)
            own.update(content)
            for name in NOT_COPIED.intersection(content):
                del own[name]
            for name, value in content.items():
                if name in HOOKS and not value and type(value) is OrderedDict:
                    own[name] = OrderedDict()  # each module has its own, and a dozen of them
                elif type(value) not in ATOMIC and name not in NOT_COPIED:
                    own[name] = self(value)
            for name in copyreg._slotnames(type(module)):  # type: ignore[attr-defined]
                if hasattr(module, name):
                    setattr(self.memo[id(module)], name, self(getattr(module, name)))
            for parameter in module._parameters.values():
                self._label(parameter)
        except Exception as error:
            if path is None or isinstance(error, ModelError):
                raise
            where = ".".join(filter(None, (path, name))) or "the network"
            raise ModelError(
                f"{type(self.model).__name__} cannot be copied, and edakari works on copies: {where!r} is or holds "
                f"what cannot be copied ({type(error).__name__}: {error}). Take it out of the network while edakari "
                "works, or give its class a __deepcopy__, which may return the object itself where sharing it is safe."
            ) from error

    def _label(self, tensor: torch.Tensor | None) -> None:
        """Copy attributes that code has set on a parameter, such as a flag against weight decay."""
        if tensor is not None and vars(tensor):
            made = self.memo.get(id(tensor), tensor)
            if made is not tensor:
                vars(made).update({name: self(value) for name, value in vars(tensor).items()})

    def copy_module(self, value: nn.Module) -> nn.Module:
        """Copy a module with its own `__deepcopy__`, or a module that is not a registered part of the network."""
        wrapped = inner(value)
        if wrapped is not None:
            return cast(nn.Module, self(wrapped))
        if not _copies_itself(type(value)):
            new = [module for module in value.modules() if id(module) not in self.memo and inner(module) is None]
            self.add_shells(new)
            for module in new:
                self.fill(None, module)
            return cast(nn.Module, self.memo[id(value)])
        if id(value) not in self.running:
            self.running.add(id(value))
            for module in value.modules():
                if module is not value and inner(module) is None:
                    self.fill(None, module)
            for held in vars(value).values():
                with contextlib.suppress(Exception):  # its own way may leave that out
                    self(held)
        made = self.memo.get(id(value))
        if made is None:
            made = self.by_own_way(value)
        for name, held in vars(value).items():
            if vars(made).get(name) is held and self.memo.get(id(held)) is not None:
                vars(made)[name] = self.memo[id(held)]
        for name in NOT_COPIED:
            vars(made).pop(name, None)
        return cast(nn.Module, made)


class _CopierOfStructure(_Copier):
    """Copies everything except tensors."""

    def copy_tensor(self, value: torch.Tensor) -> torch.Tensor:
        return value


def _has_tensors(values: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in values.values())


def _copies_itself(cls: type[nn.Module]) -> bool:
    if _is_parametrized(cls):
        return _copies_itself(cls.__bases__[0])
    names = ("__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__")
    return any(getattr(cls, name, None) is not getattr(nn.Module, name, None) for name in names)


def _is_parametrized(cls: type[nn.Module]) -> bool:
    """Return whether torch made the class for one module by `torch.nn.utils.parametrize`."""
    return getattr(vars(cls).get("__getstate__"), "__module__", "") == "torch.nn.utils.parametrize"


def _class_for(module: nn.Module) -> type[nn.Module]:
    """The class of a module's copy; a class made for one module is not shared."""
    cls = type(module)
    if not _is_parametrized(cls):
        return cls
    own = {name: value for name, value in vars(cls).items() if name not in UNIQUE}
    return types.new_class(cls.__name__, cls.__bases__, {}, lambda made: made.update(own))
