"""Calls of a network with the inputs in a batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from edakari.core.protocols import Batch
from edakari.errors import DataError

__all__ = ["feed", "moved_to"]


def feed(model: nn.Module, batch: Batch, example: Any = None) -> Any:
    """Call a network with the inputs in a batch, without labels.

    Args:
        model: the network; tensors are moved to the device of its parameters.
        batch: a tensor is passed directly. From a tuple or list, the network gets as many leading entries as the
            example has, or as `forward` requires (at least one). From a dict, it gets the example's keys; for a
            single tensor as example, the only entry of that shape and dtype; or else the keys that `forward` accepts. A
            tuple with such a dict as its first entry counts as that dict.
        example: a valid input, as for `edakari.trace`; None if unknown.

    Raises:
        DataError: the batch contains no inputs for the network.
    """
    batch = moved_to(model, batch)
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Mapping):
        batch = batch[0]
    if isinstance(batch, Mapping):
        alike = _like(batch, example)
        return model(**_keywords(model, batch, example)) if alike is None else model(alike)
    if isinstance(batch, list | tuple):
        if len(batch) < 1:
            raise DataError("a batch is empty; it must hold the inputs of the network")
        count = len(example) if isinstance(example, list | tuple) else 1 if example is not None else _demanded(model)
        return model(*batch[:count])
    if isinstance(batch, torch.Tensor):
        return model(batch)
    raise DataError(
        f"a batch is a {type(batch).__name__}, in which no network inputs can be found; give tensors, or tuples or "
        "dicts of them"
    )


def _like(batch: Mapping[str, Any], example: Any) -> torch.Tensor | None:
    """The entry that looks like the example, a single tensor; None if none does, or several do."""
    if isinstance(example, list | tuple) and len(example) == 1:
        example = example[0]
    if not isinstance(example, torch.Tensor):
        return None
    found = [
        value
        for value in batch.values()
        if isinstance(value, torch.Tensor)
        and value.dtype == example.dtype
        and value.shape[1:] == example.shape[1:]
        and value.ndim == example.ndim
    ]
    return found[0] if len(found) == 1 else None


def _keywords(model: nn.Module, batch: Mapping[str, Any], example: Any) -> dict[str, Any]:
    accepted = inspect.signature(model.forward).parameters
    any_name = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values())
    wanted = example if isinstance(example, Mapping) else batch if any_name else accepted
    found = {name: value for name, value in batch.items() if name in wanted}
    if not found:
        raise DataError(
            f"a batch has the keys {', '.join(map(repr, batch))}, of which the network takes none "
            f"({', '.join(map(repr, wanted))}); say what it takes: Task.of(..., inputs=lambda batch: batch[...])"
        )
    return found


def _demanded(model: nn.Module) -> int:
    """Number of required positional inputs of a network, at least one."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(model.forward).parameters.values()
    return max(1, sum(each.kind in positional and each.default is inspect.Parameter.empty for each in found))


def moved_to(model: nn.Module, batch: Batch) -> Batch:
    """Move a batch to a network's device; unchanged for a network without parameters and buffers."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
    if device is None:
        return batch
    return tree_map(lambda value: value.to(device) if isinstance(value, torch.Tensor) else value, batch)
