"""Modules whose own code computes one width from another, so that the two can only be pruned together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from edakari.graph import axes
from edakari.graph.flow import Dims

__all__ = ["TIES", "tie", "ties"]

Dimensions = Callable[[str], Dims]
"""Dimensions of a parameter by its name inside the module."""

TIES: dict[str, Callable[[Any, Dimensions], None]] = {}


def ties(name: str) -> Callable[[Callable[[Any, Dimensions], None]], Callable[[Any, Dimensions], None]]:
    """Decorator that says what a module class ties together, by the class's name."""

    def add(function: Callable[[Any, Dimensions], None]) -> Callable[[Any, Dimensions], None]:
        TIES[name] = function
        return function

    return add


def tie(model: nn.Module, stored: Mapping[str, Dims]) -> None:
    """Unify what the modules of a network tie together."""
    for path, module in model.named_modules():
        rule = TIES.get(type(module).__name__)
        if rule is not None:
            rule(module, lambda name, path=path: stored[f"{path}.{name}" if path else name])  # type: ignore[misc]


@ties("ShiftedWindowAttention")
@ties("ShiftedWindowAttentionV2")
def shifted_window_attention(module: Any, dims: Dimensions) -> None:
    """The Swin of torchvision takes the head dimension as the input's width divided by the number of heads."""
    axes.unify(
        dims("qkv.weight")[1],
        dims("proj.weight")[1],
        "torchvision's shifted_window_attention divides the input's width into heads",
    )
