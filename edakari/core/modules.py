"""The modules and tensors of a network, listed at once: torch's nested generators take several times as long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

__all__ = ["buffers_of", "modules_of", "parameters_of", "tensors_in"]


def modules_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a network's modules with their paths, as `named_modules` does: each once, by its first path."""
    found: list[tuple[str, nn.Module]] = []
    _visit("", model, found, set())
    return found


def _visit(path: str, module: nn.Module, found: list[tuple[str, nn.Module]], seen: set[int]) -> None:
    seen.add(id(module))
    found.append((path, module))
    start = f"{path}." if path else ""
    for name, child in module._modules.items():
        if child is not None and id(child) not in seen:
            _visit(start + name, child, found, seen)


def parameters_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a network's parameters by name, as `named_parameters` does: each once, by its first name."""
    return tensors_in(modules_of(model), "_parameters")


def buffers_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a network's buffers by name, as `named_buffers` does: each once, by its first name."""
    return tensors_in(modules_of(model), "_buffers")


def tensors_in(
    modules: Iterable[tuple[str, nn.Module]], kind: Literal["_parameters", "_buffers"]
) -> dict[str, torch.Tensor]:
    """Return the parameters or the buffers of modules with these paths, each once, by its first name."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for path, module in modules:
        start = f"{path}." if path else ""
        held: dict[str, torch.Tensor | None] = vars(module)[kind]
        for name, tensor in held.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found[start + name] = tensor
    return found
