"""What a user hands in where a network belongs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied_as_is
from edakari.core.wrappers import check_parts, inner
from edakari.errors import ModelError

__all__ = ["described", "unwrapped"]


def unwrapped(model: Any, call: str) -> nn.Module:
    """The network that a user hands in, without what stands around it or its parts.

    Every function that a user gives a network passes it through here. What is named in it is then named alike whether
    it was handed in by itself, compiled by `torch.compile` or `model.compile()`, or in `DistributedDataParallel`.

    Args:
        model: what was handed in.
        call: the function and its arguments, for the message.

    Returns:
        The network itself; where parts of it are wrapped or compiled, a network without that which shares its tensors.

    Raises:
        ModelError: it is no network, or one that cannot be unwrapped; says what to hand in instead.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"{call} takes a network (a torch.nn.Module), but got {described(model)}.")
    network: nn.Module = model
    while (found := inner(network)) is not None:
        network = found
    check_parts(network)
    wrapped = any(inner(part) is not None or part._compiled_call_impl is not None for part in network.modules())
    return copied_as_is(network) if wrapped else network


def described(value: Any) -> str:
    """What was found in place of something else, and what to do where that can be said."""
    name = type(value).__name__
    if inspect.isclass(value):
        hint = f" (make a network of it first: {value.__name__}(...))" if issubclass(value, nn.Module) else ""
        return f"the class {value.__name__}{hint}"
    if isinstance(value, torch.Tensor | tuple | list):
        return f"a {name} (are the arguments in another order?)"
    if isinstance(value, dict):
        return "a dict (if it is a state dict, build the network and call network.load_state_dict first)"
    if isinstance(value, str):
        return f"the text {value!r} (edakari.build makes a network of a name)"
    if isinstance(value, torch.export.ExportedProgram):
        return "an ExportedProgram (hand in the network as it was before torch.export.export)"
    if inspect.isroutine(value) or isinstance(value, torch.jit.ScriptFunction):
        return f"the function {getattr(value, '__name__', name)} (only what a module holds can be pruned)"
    return f"a {name}"
