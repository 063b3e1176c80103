"""Turns a network into its cut copy, in place: only what a cut changes is replaced."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.wrappers import inner
from edakari.graph.held import OWN, held, replaced_inside

__all__ = ["graft"]

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.Size)
"""Types of values that are compared by value."""


def graft(model: nn.Module, small: nn.Module, stays: Mapping[int, torch.Tensor]) -> None:
    """Turn a network into its cut copy, in place.

    Modules, hooks, and values that the cut does not change stay the same objects, so code that refers to them continues
    to work. Modules of another class, such as the stand-ins of a dropped branch, are taken from the copy.

    Args:
        model: the network before the cut.
        small: its cut copy, which is used up.
        stays: for tensors of the copy, by id, the tensors of the network that stay in their place.
    """
    parts: dict[nn.Module, nn.Module] = {}
    for part, own in _pairs(model, small):
        if part not in parts or own is not part:
            parts[part] = own
    content = _Content({id(part): own for part, own in parts.items()}, stays)
    for part, own in parts.items():
        content.put_children(own, part)
        content.put_tensors(own, part)
        content.put_attributes(own, part)


def _pairs(own: nn.Module, part: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield the modules of the copy, each with the network's module that becomes it: itself if there is none."""
    yield part, own
    for name, child in part._modules.items():
        if child is not None:
            yield from _pairs(_twin(own._modules.get(name), child), child)


def _twin(own: nn.Module | None, part: nn.Module) -> nn.Module:
    found = _inside(own)
    return found if found is not None and _alike(type(found), type(part)) else part


def _inside(module: nn.Module | None) -> nn.Module | None:
    while module is not None and (found := inner(module)) is not None:
        module = found
    return module


def _alike(own: type[nn.Module], other: type[nn.Module]) -> bool:
    """Whether two classes are one, or those that torch makes for single parametrized modules."""
    return own is other or (own.__name__, own.__bases__) == (other.__name__, other.__bases__)


@dc.dataclass(frozen=True)
class _Content:
    """Puts the content of modules of a copy into modules of a network.

    Args:
        modules: for modules of the copy, by id, those of the network.
        stays: for tensors of the copy, by id, those of the network that stay.
    """

    modules: Mapping[int, nn.Module]
    stays: Mapping[int, torch.Tensor]

    def put_children(self, own: nn.Module, part: nn.Module) -> None:
        """Replace the children that have another class."""
        for name, child in part._modules.items():
            twin = None if child is None else self.modules[id(child)]
            if _inside(own._modules.get(name)) is not twin:  # otherwise it stays, with the wrapper that it may have
                own._modules[name] = twin
        for name in [name for name in own._modules if name not in part._modules]:
            del own._modules[name]

    def put_tensors(self, own: nn.Module, part: nn.Module) -> None:
        """Replace parameters and buffers."""
        for ours, theirs in ((own._parameters, part._parameters), (own._buffers, part._buffers)):
            for name, tensor in theirs.items():
                ours[name] = self.new(tensor)
            for name in [name for name in ours if name not in theirs]:
                del ours[name]

    def put_attributes(self, own: nn.Module, part: nn.Module) -> None:
        """Replace plain attributes in which a number or a tensor differs."""
        for name, value in vars(part).items():
            if name in OWN:
                continue
            if own is part or name not in vars(own) or self._differs(vars(own)[name], value):
                vars(own)[name] = replaced_inside(value, self.new)

    def new(self, value: Any) -> Any:
        """Return what stands in the network for a value of the copy."""
        if isinstance(value, torch.Tensor):
            return self.stays.get(id(value), value)
        return self.modules.get(id(value), value) if isinstance(value, nn.Module) else value

    def _differs(self, own: Any, part: Any) -> bool:
        ours, theirs = list(held(own, "")), list(held(part, ""))
        if [name for name, _ in ours] != [name for name, _ in theirs]:
            return True
        return any(self._leaf_differs(one, other) for (_, one), (_, other) in zip(ours, theirs, strict=True))

    def _leaf_differs(self, own: Any, part: Any) -> bool:
        if isinstance(part, torch.Tensor):
            return self.new(part) is not own
        if isinstance(part, PLAIN) or isinstance(own, PLAIN):
            return type(own) is not type(part) or own != part
        return False
