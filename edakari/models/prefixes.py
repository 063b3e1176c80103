"""Prefixes that wrappers add to the names of a network's tensors."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["wrapper_prefix"]

MOST = 4
"""Largest number of dotted parts in a prefix; `model.module.` has two."""


def wrapper_prefix(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """Find the prefix that most names in a file have and the network's names lack; None if removing it does not help.

    Args:
        names: names of the tensors in a file.
        wanted: names in the network's state dict.
    """
    names, wanted = list(names), set(wanted)
    starts = {name[: -len(want)] for name in names for want in _ends(name) if want in wanted and want != name}
    best = max(starts, key=lambda start: _matches(names, start, wanted), default=None)
    if best is None or _matches(names, best, wanted) <= len(wanted.intersection(names)):
        return None
    return best


def _ends(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[index:]) for index in range(1, min(len(parts), MOST + 1))]


def _matches(names: list[str], start: str, wanted: set[str]) -> int:
    return sum(name.startswith(start) and name[len(start) :] in wanted for name in names)
