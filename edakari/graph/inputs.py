"""Example inputs as plain data: shapes and types without values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from edakari.core.graph import InputSpec
from edakari.errors import ModelError

__all__ = ["example_for", "example_of", "spec_of_inputs"]

ELEMENTS = 2**28
"""Numbers of an example input that a file describes, a gigabyte; images and texts have some millions at most."""


def example_for(model: nn.Module, inputs: InputSpec, device: str = "meta") -> Any:
    """The described example in the floating type that the network has now."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def fit(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return tree_map(fit, example_of(inputs, device))


def spec_of_inputs(example: Any) -> InputSpec:
    """An example as JSON: shapes and dtypes, no values.

    Raises:
        ModelError: the example holds what is neither a tensor nor plain data.
    """
    if isinstance(example, torch.Tensor):
        return {"tensor": [list(example.shape), str(example.dtype).removeprefix("torch.")]}
    if isinstance(example, tuple | list):
        return {type(example).__name__: [spec_of_inputs(item) for item in example]}
    if isinstance(example, dict):
        return {"dict": {str(key): spec_of_inputs(value) for key, value in example.items()}}
    if example is None or isinstance(example, bool | int | float | str):
        return {"value": example}
    raise ModelError(f"an example is made of tensors and plain values, but holds a {type(example).__name__}")


def example_of(inputs: InputSpec, device: str = "meta") -> Any:
    """The inverse of `spec_of_inputs`, with zeros on a device.

    Raises:
        ModelError: not such a description.
    """
    match inputs:
        case {"tensor": [list(shape), str(dtype)]}:
            return torch.zeros(_checked(shape), dtype=_dtype(dtype), device=device)
        case {"tuple": list(items)}:
            return tuple(example_of(item, device) for item in items)
        case {"list": list(items)}:
            return [example_of(item, device) for item in items]
        case {"dict": dict(items)}:
            return {key: example_of(value, device) for key, value in items.items()}
        case {"value": value}:
            return value
    raise ModelError(f"not the description of an example: {inputs!r}")


def _checked(shape: list[Any]) -> list[int]:
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) > ELEMENTS:
        raise ModelError(f"not the shape of an example: {shape!r}")
    return shape


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"not the type of an example: {name!r}")
    return found
