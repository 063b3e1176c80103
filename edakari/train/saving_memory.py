"""Gradient checkpointing: activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from edakari.errors import ModelError

__all__ = ["checkpointed"]

Switch = Callable[[], Any]


@contextlib.contextmanager
def checkpointed(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Context in which a network of timm or transformers checkpoints its blocks; restores its setting at the end.

    Args:
        model: the network, or a network that contains it.
        wanted: whether to do so; False does nothing.

    Raises:
        ModelError: no part of the network offers it.
    """
    if not wanted:
        yield
        return
    on, off = _switches(model)
    try:
        on()
    except (AssertionError, ValueError) as error:  # of timm, and of transformers
        raise ModelError(f"{type(model).__name__} offers no gradient checkpointing: {error}") from None
    try:
        yield
    finally:
        off()


def _switches(model: nn.Module) -> tuple[Switch, Switch]:
    """Functions that switch the checkpointing of a network on, and back to what it was."""
    parts: list[Any] = list(model.modules())
    for part in parts:
        if callable(getattr(part, "set_grad_checkpointing", None)):
            before = bool(getattr(part, "grad_checkpointing", False))
            switch = part.set_grad_checkpointing
            return functools.partial(switch, True), functools.partial(switch, before)
        if callable(getattr(part, "gradient_checkpointing_enable", None)):
            on = functools.partial(part.gradient_checkpointing_enable, {"use_reentrant": False})
            held = bool(getattr(part, "is_gradient_checkpointing", False))
            return on, (on if held else part.gradient_checkpointing_disable)
    raise ModelError(
        f"{type(model).__name__} offers no gradient checkpointing: it has neither timm's set_grad_checkpointing nor "
        "transformers' gradient_checkpointing_enable. Leave gradient_checkpointing out, or take smaller batches and "
        "accumulate their gradients (accumulate in the schedule)"
    )
