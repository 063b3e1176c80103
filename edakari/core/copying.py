"""Copies of networks: the one place that makes them, here and in every package above.

A copy shares nothing with the network that can change. What the network's modules hold is copied once, however many
of them hold it: containers, objects, functions with what they close over, bound methods, hooks. So a copy behaves as
another network would that the same code had built. What belongs to the program is shared: classes, modules of Python,
loggers, locks, threads, open handles, and module-level state, unless the network holds that too.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn

from edakari.core.copier import Copier
from edakari.core.globals import used_by_forward
from edakari.core.wrappers import inner
from edakari.errors import ModelError

__all__ = ["copied", "copied_as_is"]

M = TypeVar("M", bound=nn.Module)

UNIQUE = ("__dict__", "__weakref__")
NOT_COPIED = frozenset({"_compiled_call_impl"})
"""Attributes of modules that run the module which they were made for."""


def copied(model: M, tensors: Mapping[int, torch.Tensor] | None = None) -> M:
    """A copy of a network that shares nothing with it that can change.

    Hooks keep their order and their ids, tied parameters stay tied. Tensors that an earlier pass left behind are
    detached. Compiled parts are copied as they were before compilation. Caches (dictionaries of tensors whose name has
    "cache" in it) are left empty, and hooks on tensors are left behind.

    Args:
        model: stays as it is.
        tensors: what takes the place of a tensor, by the tensor's id; other tensors are copied.

    Returns:
        The copy; without the wrapper where a network is one that `inner` knows.

    Raises:
        ModelError: the network holds what cannot be copied; says where.
    """
    return cast(M, _Copier(model, tensors or {}).network())


def copied_as_is(model: M) -> M:
    """A copy of a network's modules and of what they hold, with the very tensors of the network."""
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
        """The network's copy."""
        parts = {path: module for path, module in self.model.named_modules() if inner(module) is None}
        self.keep(used_by_forward(parts.values()))
        self.leave_empty(parts.values())
        self.add_shells(parts.values())
        with torch.inference_mode(False):  # tensors made in it could not be trained
            for path, module in parts.items():
                self.fill(path, module)
            return cast(nn.Module, self(self.model))

    def keep(self, values: Sequence[Any]) -> None:
        """Some objects are their own copies."""
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
        """Make the copies of modules, to be filled: so whatever refers to a module finds its copy."""
        for module in modules:
            if not _copies_itself(type(module)):
                self.memo[id(module)] = object.__new__(_class_for(module))
                self.shells.add(id(module))

    def fill(self, path: str | None, module: nn.Module) -> None:
        """Copy what a module holds.

        Args:
            path: of the module in the network, to say where something cannot be copied; None for a module in something
                that the network holds.
            module: whose shell was made.

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
            own = vars(self.memo[id(module)])
            for name, value in vars(module).items():
                if name not in NOT_COPIED:
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
        """What code has noted on a parameter, such as that it is not to decay, goes along."""
        if tensor is not None and vars(tensor):
            made = self.memo.get(id(tensor), tensor)
            if made is not tensor:
                vars(made).update({name: self(value) for name, value in vars(tensor).items()})

    def copy_module(self, value: nn.Module) -> nn.Module:
        """A module with a way of its own to be copied, or one that is no registered part of the network."""
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
    """Copies all but tensors."""

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
    """Whether torch made a class for one module, to compute its weights by `torch.nn.utils.parametrize`."""
    return getattr(vars(cls).get("__getstate__"), "__module__", "") == "torch.nn.utils.parametrize"


def _class_for(module: nn.Module) -> type[nn.Module]:
    """The class of a module's copy; a class of one module has what is that module's own, and is not shared."""
    cls = type(module)
    if not _is_parametrized(cls):
        return cls
    own = {name: value for name, value in vars(cls).items() if name not in UNIQUE}
    return types.new_class(cls.__name__, cls.__bases__, {}, lambda made: made.update(own))
