"""Prefixes that wrappers put before the names of a network's tensors."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["wrapper_prefix"]

MOST = 4
"""Parts that a prefix may have, such as those of `model.module.`."""


def wrapper_prefix(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The prefix that most names have and the network's do not, or None where taking one off does not help.

    Args:
        names: in a file.
        wanted: of the network's state.
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
