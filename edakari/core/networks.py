"""Checks and unwrapping of networks that users pass."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied_as_is
from edakari.core.modules import modules_of
from edakari.core.wrappers import check_parts, inner
from edakari.errors import ModelError

__all__ = ["described", "unwrapped"]


def unwrapped(model: Any, call: str) -> nn.Module:
    """Unwrap the network that a user passes.

    Every public function that takes a network calls this function. So names in the network are the same for a plain
    network, one compiled by `torch.compile` or `model.compile()`, and one in `DistributedDataParallel`.

    Args:
        model: the argument that the user passed.
        call: the function and its arguments, for the message.

    Returns:
        The network itself. If parts of it are wrapped or compiled, a network without these wrappers that shares its
        tensors.

    Raises:
        ModelError: the argument is not a network, or cannot be unwrapped; the message says what to pass instead.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"{call} takes a network (a torch.nn.Module), but got {described(model)}.")
    network: nn.Module = model
    while (found := inner(network)) is not None:
        network = found
    check_parts(network)
    wrapped = any(inner(part) is not None or part._compiled_call_impl is not None for _, part in modules_of(network))
    return copied_as_is(network) if wrapped else network


def described(value: Any) -> str:
    """Describe a wrong value for an error message, with advice if there is any."""
    name = type(value).__name__
    if inspect.isclass(value):
        hint = f" (make a network of it first: {value.__name__}(...))" if issubclass(value, nn.Module) else ""
        return f"the class {value.__name__}{hint}"
    if isinstance(value, torch.Tensor | tuple | list):
        return f"a {name} (are the arguments in another order?)"
    if isinstance(value, dict):
        return "a dict (if it is a state dict, build the network and call network.load_state_dict first)"
    if isinstance(value, str):
        return f"the text {value!r} (edakari.build makes a network from a name)"
    if isinstance(value, torch.export.ExportedProgram):
        return "an ExportedProgram (pass the network from before torch.export.export)"
    if inspect.isroutine(value) or isinstance(value, torch.jit.ScriptFunction):
        return f"the function {getattr(value, '__name__', name)} (only what a module holds can be pruned)"
    return f"a {name}"
