"""Example inputs as plain data: shapes and types, values of integers, and of small floats in targets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from edakari.core.graph import InputSpec
from edakari.errors import ModelError

__all__ = ["example_for", "example_of", "spec_of_inputs"]

ELEMENTS = 2**28
"""Largest number of entries of an example in a file: a gigabyte. Images and texts have some millions."""

LARGEST = 1024
"""Largest number of entries of an integer tensor that are stored; a larger one becomes zeros unless constant."""

FLOATS = 512
"""Largest number of entries of a floating tensor that are stored: 128 boxes, or 17 keypoints of 10 people."""


def example_for(model: nn.Module, inputs: InputSpec, device: str | None = "meta") -> Any:
    """Make the described example in the current floating type of the network.

    The tensors of another floating type than the first one, such as keypoints beside images, keep theirs.

    Args:
        model: network.
        inputs: description of the example, see `Graph.inputs`.
        device: device of the tensors, see `example_of`.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    example = example_of(inputs, device)
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor)]
    before = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), dtype)

    def fit(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype == before else value

    return tree_map(fit, example)


def spec_of_inputs(example: Any) -> InputSpec:
    """Describe an example as JSON: shapes and dtypes, and those values on which code may depend.

    Code takes sizes, lengths and indices from integers, so it may fail on other values. Up to 1,024 entries are stored
    one by one; of a larger tensor, only its value if it is constant. Code only computes with floats, except that
    detectors check the boxes in their targets: up to 512 entries are stored of each floating tensor inside of an
    argument.

    Raises:
        ModelError: the example holds something that is neither a tensor nor plain data.
    """
    return _spec(example, 0)


def _spec(value: Any, depth: int) -> InputSpec:
    if isinstance(value, torch.Tensor):
        form = {"tensor": [list(value.shape), str(value.dtype).removeprefix("torch.")]}
        inside = depth > 1 and value.is_floating_point()  # arguments have depth 1
        values = _floats(value) if inside else _integers(value)
        return form if values is None else {**form, "values": values}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_spec(item, depth + 1) for item in value]}
    if isinstance(value, dict):
        return {"dict": {str(key): _spec(item, depth + 1) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise ModelError(f"an example is made of tensors and plain values, but holds a {type(value).__name__}")


def _floats(tensor: torch.Tensor) -> list[Any] | None:
    """The entries of a small floating tensor; None if all are zero, because what is not stored becomes zeros."""
    if tensor.is_meta or tensor.numel() > FLOATS:
        return None
    values = tensor.detach().double().flatten()
    return values.tolist() if bool(values.any()) and bool(values.isfinite().all()) else None


def _integers(tensor: torch.Tensor) -> list[Any] | None:
    """The entries that a description stores; a single entry stands for all."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.is_meta:
        return None
    flat = tensor.flatten()
    if flat.numel() > LARGEST:
        flat = flat[:1] if bool((flat == flat[0]).all()) else flat[:0]
    found: list[Any] = flat.tolist()
    return found if found or not tensor.numel() else None


def example_of(inputs: InputSpec, device: str | None = "meta") -> Any:
    """Make the described example, the inverse of `spec_of_inputs`; values that are not stored become zeros.

    Args:
        inputs: description of the example.
        device: device of the tensors; None puts those with known values on the CPU, and the others on meta.

    Raises:
        ModelError: this is no such description.
    """
    match inputs:
        case {"tensor": [list(shape), str(dtype)], "values": list(values)}:
            return _with_values(values, _checked(shape), _dtype(dtype)).to(device or "cpu")
        case {"tensor": [list(shape), str(dtype)]}:
            return torch.zeros(_checked(shape), dtype=_dtype(dtype), device=device or "meta")
        case {"tuple": list(items)}:
            return tuple(example_of(item, device) for item in items)
        case {"list": list(items)}:
            return [example_of(item, device) for item in items]
        case {"dict": dict(items)}:
            return {key: example_of(value, device) for key, value in items.items()}
        case {"value": value}:
            return value
        case {"inputs": chosen, "outputs": list()}:
            return example_of(chosen, device)
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


def _with_values(values: list[Any], shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    try:
        found = torch.tensor(values, dtype=dtype)
        return found.expand(shape).contiguous() if len(values) == 1 else found.reshape(shape)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelError(
            f"the example's {len(values)} values do not make a {dtype} tensor of shape {shape}: {error}. "
            "Was the plan's file edited? Make the plan again."
        ) from None
