"""Operators whose results or arguments hold position numbers, such as the indices that `argmax` returns.

The numbers of channels change when a network gets narrower, so a channel may only be removed where nobody computes with
its number. Moving a tensor of numbers around is harmless, and so is looking up what they were found for.
"""

from __future__ import annotations

__all__ = ["MOVING", "NUMBERING"]

MOVING = frozenset(
    f"aten.{name}"
    for name in (
        *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "_reshape_alias", "permute", "transpose", "t"),
        *("unsqueeze", "unsqueeze_", "squeeze", "squeeze_", "expand", "repeat", "clone", "detach", "alias"),
        *("contiguous", "lift_fresh", "slice", "narrow", "select", "unbind", "split", "split_with_sizes", "chunk"),
        *("cat", "stack"),
    )
)
"""Operators that return the numbers that they were given, in another form."""

NUMBERING = frozenset(
    f"aten.{name}"
    for name in (
        *("gather", "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_"),
        *("zeros_like", "ones_like", "empty_like", "full_like"),
    )
)
"""Operators whose rules say themselves what numbers they read, or that read none."""
