"""Modules whose own code computes one width from another, so that the two can only be pruned together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from edakari.core.space import Kind
from edakari.graph import axes
from edakari.graph.axes import Expression
from edakari.graph.flow import Dims

__all__ = ["TIES", "role_of", "tie", "ties"]

Dimensions = Callable[[str], Dims]
"""Dimensions of a parameter by its name inside the module."""

ROLES: tuple[tuple[tuple[str, ...], frozenset[Kind]], ...] = (
    (("attn_dim", "inner_dim", "dim_inner", "all_head_size", "attention_dim"), frozenset({"head", "head_dim"})),
    (("head_dim", "dim_head", "head_size", "d_head", "key_dim"), frozenset({"head_dim"})),
    (("heads", "nhead", "n_head"), frozenset({"head"})),
)
"""What attributes of such names count: the kinds of the groups that make up their extent."""

TIES: dict[str, Callable[[Any, Dimensions], None]] = {}


def ties(name: str) -> Callable[[Callable[[Any, Dimensions], None]], Callable[[Any, Dimensions], None]]:
    """Decorator that says what a module class ties together, by the class's name."""

    def add(function: Callable[[Any, Dimensions], None]) -> Callable[[Any, Dimensions], None]:
        TIES[name] = function
        return function

    return add


def role_of(attribute: str) -> frozenset[Kind] | None:
    """The kinds of the groups that make up what an attribute counts, as far as its name tells."""
    return next((kinds for names, kinds in ROLES if any(part in attribute for part in names)), None)


def tie(model: nn.Module, stored: Mapping[str, Dims]) -> None:
    """Unify what the modules of a network tie together."""
    below: dict[str, list[Expression]] = {}
    for name, dims in stored.items():
        owner = name.rpartition(".")[0]
        below.setdefault(owner, []).extend(dims)
        below.setdefault(owner.rpartition(".")[0], []).extend(dims if owner else ())
    for path, module in model.named_modules():
        _tie_attributes(module, below.get(path, ()))
        rule = TIES.get(type(module).__name__)
        if rule is not None:
            rule(module, lambda name, path=path: stored[f"{path}.{name}" if path else name])  # type: ignore[misc]


def _tie_attributes(module: nn.Module, dims: Iterable[Expression]) -> None:
    """One attribute holds one number, so the axes that it may speak of keep the same size."""
    for name, value in vars(module).items():
        role = role_of(name) if isinstance(value, int) and not name.startswith("_") else None
        if role is None or len(role) > 1:
            continue
        spoken_of = [axis for dim in dims for axis in axes.leaves(dim) if axis.size == value and role <= axis.kinds]
        for axis in spoken_of[1:]:
            axes.unify(spoken_of[0], axis, f"{name} speaks of it")


@ties("ShiftedWindowAttention")
@ties("ShiftedWindowAttentionV2")
def shifted_window_attention(module: Any, dims: Dimensions) -> None:
    """The Swin of torchvision takes the head dimension as the input's width divided by the number of heads."""
    axes.unify(
        dims("qkv.weight")[1],
        dims("proj.weight")[1],
        "torchvision's shifted_window_attention divides the input's width into heads",
    )
