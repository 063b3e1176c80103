"""Means, sums, extrema and softmaxes over tokens, in all the ways that networks write them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

__all__ = ["SOFTMAX", "Reduction", "Role", "Roles", "reduction", "replaced"]

SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax, torch.special.softmax)
MEAN = (torch.mean, torch.Tensor.mean)
SUM = (torch.sum, torch.Tensor.sum)
LARGEST = (torch.max, torch.Tensor.max, torch.amax, torch.Tensor.amax, torch.argmax, torch.Tensor.argmax)
SMALLEST = (torch.min, torch.Tensor.min, torch.amin, torch.Tensor.amin, torch.argmin, torch.Tensor.argmin)
EXPONENTS = (torch.logsumexp, torch.Tensor.logsumexp, torch.special.logsumexp)
POOLED = {
    F.adaptive_avg_pool1d: "mean",
    F.adaptive_max_pool1d: "largest",
    F.adaptive_max_pool1d_with_indices: "largest",
    torch.adaptive_max_pool1d: "largest",
}
"""Reductions by functions that pool the last dimension to a given size and keep it."""
KINDS = {
    **dict.fromkeys(SOFTMAX, "softmax"),
    **dict.fromkeys(MEAN, "mean"),
    **dict.fromkeys(SUM, "sum"),
    **dict.fromkeys(LARGEST, "largest"),
    **dict.fromkeys(EXPONENTS, "largest"),
    **dict.fromkeys(SMALLEST, "smallest"),
    **POOLED,
}


@dc.dataclass(frozen=True, slots=True)
class Reduction:
    """One call that reduces, or normalises over, one dimension.

    Args:
        kind: "mean", "sum", "largest", "smallest" or "softmax".
        x: the tensor.
        dim: the dimension, counted from the front.
        keepdim: whether the result keeps the dimension, with size 1.
    """

    kind: str
    x: torch.Tensor
    dim: int
    keepdim: bool


def reduction(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reduction | None:
    """Return the reduction of a torch call; None if it reduces no dimension, or several at once."""
    kind = KINDS.get(func)
    if kind is None:
        return None
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, torch.Tensor) or x.dim() < 2:
        return None
    given = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    if func in POOLED:
        size = kwargs.get("output_size", args[1] if len(args) > 1 else None)
        if size not in (1, (1,), [1]):
            return None
        return Reduction(kind, x, x.dim() - 1, True)
    if isinstance(given, (tuple, list)):
        given = given[0] if len(given) == 1 else None
    if not isinstance(given, int) or isinstance(given, bool):
        return None
    keepdim = bool(kwargs.get("keepdim", kwargs.get("keepdims", args[2] if len(args) > 2 else False)))
    return Reduction(kind, x, given % x.dim(), keepdim)


def replaced(x: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a call's arguments with a new first tensor."""
    return ((x, *args[1:]), dict(kwargs)) if args else ((), {**kwargs, "input": x})


@dc.dataclass(frozen=True, slots=True)
class Role:
    """Role of one reduction of the dense network; sizes are ambiguous if there are as many channels as tokens.

    Args:
        kind: see `Reduction`.
        dims: number of dimensions of its tensor.
        dim: reduced dimension.
        tokens: whether this is the dimension of tokens.
    """

    kind: str
    dims: int
    dim: int
    tokens: bool


class Roles:
    """Roles of the reductions in one part of a network, in the order of their calls."""

    def __init__(self, known: Sequence[Role]) -> None:
        self.known, self.seen = known, 0

    def next(self, found: Reduction) -> bool | None:
        """Return whether the current reduction is along tokens; None if the part computes something new."""
        index, self.seen = self.seen, self.seen + 1
        role = self.known[index] if index < len(self.known) else None
        if role is None or (role.kind, role.dims, role.dim) != (found.kind, found.x.dim(), found.dim):
            return None
        return role.tokens
