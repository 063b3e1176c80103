"""Copies of networks for trial forward passes, without data or with artificial data."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from edakari.core.copying import copied
from edakari.core.modules import modules_of, tensors_in
from edakari.core.user_code import cause
from edakari.errors import EdakariError, ModelError
from edakari.graph.held import held_tensors

__all__ = ["as_written", "bytes_on_disk", "call", "run_on", "shadow_of", "stored_tensors"]

FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(NameError, RuntimeError, StopIteration, TypeError, ValueError),
)
"""Errors that code raises for an unexpected size."""


def stored_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every tensor that a network holds, by its first name, each once.

    Parameters come first, then buffers, then tensors in plain attributes, such as a table that was never registered.
    """
    modules = modules_of(model)
    found = tensors_in(modules, "_parameters") | tensors_in(modules, "_buffers")
    known = set(map(id, found.values()))
    for path, module in modules:
        for name, tensor in held_tensors(module):
            if id(tensor) not in known:
                known.add(id(tensor))
                found[f"{path}.{name}" if path else name] = tensor
    return found


def bytes_on_disk(model: nn.Module) -> dict[str, int]:
    """Return the bytes of one position on disk, for each tensor in the state of a network, by its first name.

    A tensor with several names is written several times.
    """
    names = {id(tensor): name for name, tensor in stored_tensors(model).items()}
    found: dict[str, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        passing = module._non_persistent_buffers_set
        kept = [tensor for name, tensor in module._buffers.items() if name not in passing]
        for tensor in (*module._parameters.values(), *kept):
            if tensor is not None:
                found[names[id(tensor)]] = found.get(names[id(tensor)], 0) + tensor.element_size()
    return found


def shadow_of(model: nn.Module, device: str) -> nn.Module:
    """Copy a network in evaluation mode to run forward passes on; on "meta" no data is copied."""
    tensors: dict[int, torch.Tensor] = {}
    for _, module in modules_of(model):
        plain = (*vars(module).values(), *(tensor for _, tensor in held_tensors(module)))
        for value in (*module._parameters.values(), *module._buffers.values(), *plain):
            if isinstance(value, torch.Tensor) and id(value) not in tensors:
                without = value.is_meta or device == "meta"
                moved = _with_data(value, device) if without else value.detach().to(device, copy=True)
                tensors[id(value)] = nn.Parameter(moved, False) if isinstance(value, nn.Parameter) else moved
    return copied(model, tensors).eval()


def _with_data(value: torch.Tensor, device: str) -> torch.Tensor:
    """A tensor with the shape of a meta tensor, with values that suit most networks."""
    if device == "meta":
        return torch.empty(value.shape, dtype=value.dtype, device=device)
    if not value.is_floating_point():
        return torch.zeros_like(value, device=device)
    if value.dim() < 2:
        return torch.ones_like(value, device=device)
    generator = torch.Generator().manual_seed(0)
    return torch.empty_like(value, device=device).normal_(0.0, value[0].numel() ** -0.5, generator=generator)


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Context manager in which compiled functions and torch's transformer layers run as their code says.

    Their operators can then be traced; fused kernels of the layers would hide them. A compiled function is, for
    example, `flex_attention`.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    compiling = sys.modules.keys() & {"torch._dynamo", "torch.nn.attention.flex_attention"}
    # if nothing can have been compiled, checking would still take seconds
    eager = torch.compiler.set_stance("force_eager") if compiling else contextlib.nullcontext()
    try:
        with eager, _without_cache_of_einops():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _without_cache_of_einops() -> Iterator[None]:
    """Context manager in which einops recomputes sizes at each call: its cache would return those of another call."""
    module = sys.modules.get("einops.einops")
    cached = getattr(module, "_reconstruct_from_shape", None)
    computed = getattr(module, "_reconstruct_from_shape_uncached", cached)
    if module is not None and cached is not None:
        vars(module)["_reconstruct_from_shape"] = computed
    try:
        yield
    finally:
        if module is not None and cached is not None:
            vars(module)["_reconstruct_from_shape"] = cached


def call(model: nn.Module, example: Any) -> Any:
    """Run a network on a copy of an example, since some networks write to their inputs.

    Args:
        model: network.
        example: a tensor, a tuple of positional arguments or a dict of keywords.

    Raises:
        ModelError: the forward pass fails.
    """
    return run_on(model, tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, example))


def run_on(model: nn.Module, example: Any) -> Any:
    """Run a network on these tensors themselves, which it may change; see `call`."""
    try:
        with torch.no_grad(), as_written():
            if isinstance(example, dict):
                return model(**example)
            return model(*example) if isinstance(example, tuple) else model(example)
    except EdakariError:
        raise  # it already says what is wrong
    except FAILURES as error:
        shapes = [tuple(leaf.shape) for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor)]
        raise ModelError(
            f"the forward pass of {type(model).__name__} fails on an example of shape "
            f"{', '.join(map(str, shapes)) or repr(example)}: {cause(error)}. "
            "Check that the example is what the network takes, batch dimension included."
        ) from error
