"""Example inputs in the forms that networks take: a tensor, a tuple of positional arguments, a dict of keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from edakari.errors import MeasurementError

__all__ = ["TakesTensors", "arguments", "mapped", "named_tensors", "shapes_text"]


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split an example into positional arguments and keywords of a call."""
    if isinstance(example, dict):
        return (), example
    return (example, {}) if isinstance(example, tuple) else ((example,), {})


def mapped(example: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply a function to each tensor of an example; plain values stay."""
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, torch.Tensor) else leaf, example)


def named_tensors(example: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of an example by the names of an exported network's inputs.

    The names are the keys, or input_0, input_1, …; a single tensor is `input`.

    Raises:
        MeasurementError: the example holds no tensor.
    """
    found = {"input": example} if isinstance(example, torch.Tensor) else dict(_named(example, ""))
    if not found:
        raise MeasurementError(f"an example is a tensor, or a tuple or dict with tensors, not {example!r}")
    return found


def _named(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    start = f"{name}_" if name else ""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _named(item, f"{start}{key}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _named(item, f"{start or 'input_'}{index}")


def shapes_text(example: Any) -> str:
    """The shapes of an example's tensors as text."""
    return ", ".join(f"{tuple(tensor.shape)}" for tensor in named_tensors(example).values())


class TakesTensors(nn.Module):
    """A network that takes the tensors of an example as positional arguments, for tools that need this form.

    Args:
        model: network.
        example: example of its inputs; plain values in it are passed in every call.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        self.model = model
        leaves, self.form = tree_flatten(example)
        self.plain = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self.indices = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self.training = model.training

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The network's outputs."""
        leaves = list(self.plain)
        for index, tensor in zip(self.indices, tensors, strict=True):
            leaves[index] = tensor
        args, kwargs = arguments(tree_unflatten(leaves, self.form))
        return self.model(*args, **kwargs)
