"""Selects the outputs of a network that must keep their widths; the others may be pruned."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.graph import InputSpec
from edakari.errors import ModelError

__all__ = ["Outputs", "output_names", "outputs_of", "selected", "tensors_in", "with_outputs"]

DEPTH = 4

Outputs = str | int | Sequence[str | int] | None
"""A key, attribute or position in a network's outputs, dotted if it is nested; or several; None selects all."""


def output_names(outputs: Outputs) -> tuple[str, ...] | None:
    """Return the chosen outputs as dotted names; None for all.

    Raises:
        ModelError: no output is chosen, or an entry is neither a name nor a position.
    """
    if outputs is None:
        return None
    chosen = [outputs] if isinstance(outputs, str | int) else list(outputs)
    if not chosen or not all(isinstance(name, str | int) and not isinstance(name, bool) for name in chosen):
        raise ModelError(
            f"outputs={outputs!r}: name at least one output by key, attribute or position, such as 'logits' or 0"
        )
    return tuple(map(str, chosen))


def with_outputs(inputs: InputSpec, names: tuple[str, ...] | None) -> InputSpec:
    """Add the chosen outputs to the description of an example."""
    return inputs if names is None else {"inputs": inputs, "outputs": list(names)}


def outputs_of(inputs: InputSpec) -> tuple[str, ...] | None:
    """Return the chosen outputs in such a description; None for all."""
    match inputs:
        case {"outputs": list(names), "inputs": _}:
            return tuple(map(str, names))
    return None


def selected(outputs: Any, names: tuple[str, ...] | None) -> Any:
    """Select the chosen outputs.

    Args:
        outputs: outputs of a network.
        names: dotted names of the chosen outputs; None for all.

    Raises:
        ModelError: the network does not return one of them; the message lists what it returns.
    """
    return outputs if names is None else [_at(outputs, name, name) for name in names]


def tensors_in(outputs: Any, depth: int = DEPTH) -> list[torch.Tensor]:
    """Return every tensor in a network's outputs, also in objects of unknown classes.

    Args:
        outputs: tensors in containers and objects.
        depth: depth to which nested objects are searched.
    """
    found: list[torch.Tensor] = []
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif depth and hasattr(leaf, "__dict__") and not isinstance(leaf, type | types.ModuleType | nn.Module):
            found.extend(tensors_in(dict(vars(leaf)), depth - 1))
    return found


def _at(outputs: Any, name: str, whole: str) -> Any:
    if isinstance(outputs, Mapping) and name in outputs:
        return outputs[name]
    first, _, rest = name.partition(".")
    found = _child(outputs, first)
    if found is None:
        there = ", ".join(_children(outputs)) or f"one {type(outputs).__name__}"
        raise ModelError(f"the network returns no output {whole!r}: there is no {first!r} among {there}")
    return _at(found, rest, whole) if rest else found


def _child(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return next((item for key, item in outputs.items() if str(key) == name), None)
    if isinstance(outputs, tuple | list) and name.lstrip("-").isdigit():
        index = int(name)
        return outputs[index] if -len(outputs) <= index < len(outputs) else None
    return getattr(outputs, name, None) if name.isidentifier() else None


def _children(outputs: Any) -> list[str]:
    if isinstance(outputs, Mapping):
        return [str(key) for key in outputs]
    if isinstance(outputs, tuple | list):
        return list(getattr(outputs, "_fields", map(str, range(len(outputs)))))
    return [name for name in getattr(outputs, "__dict__", {}) if not name.startswith("_")]
