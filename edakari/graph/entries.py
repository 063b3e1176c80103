"""Operators whose results or arguments hold position numbers, such as the indices that `argmax` returns.

The numbers of channels change when a network gets narrower, so a channel may only be removed where nobody computes with
its number. Moving a tensor of numbers around is harmless, and so is looking up what they were found for.
"""

from __future__ import annotations

from edakari.graph.operators import Trait, having

__all__ = ["MOVING", "NUMBERING"]

MOVING = having(Trait.MOVES)
"""Operators that return the numbers that they were given, in another form."""

NUMBERING = having(Trait.NUMBERS)
"""Operators whose rules say themselves what numbers they read, or that read none."""
