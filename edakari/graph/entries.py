"""Operators whose results or arguments are indices of positions, such as the indices that `argmax` returns.

The indices of channels change when a network gets narrower, so a channel may only be removed if nothing computes with
its index. Rearranging a tensor of indices is harmless, and so is a lookup along the dimension that they index.
"""

from __future__ import annotations

from edakari.graph.operators import Trait, having

__all__ = ["MOVING", "NUMBERING"]

MOVING = having(Trait.MOVES)
"""Operators that return the entries of their input in another arrangement."""

NUMBERING = having(Trait.NUMBERS)
"""Operators whose own rule handles indices among their arguments, or that read no entries."""
