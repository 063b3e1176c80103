"""Numbers of things in sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str = "") -> str:
    """Format a number of things: "1 epoch", "2 epochs".

    Args:
        number: how many there are.
        noun: one of them.
        plural: several of them, if it is not the noun and an s.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
