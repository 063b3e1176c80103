"""Safe reading of files that may be damaged or malicious: always fast, and with a clear error."""

from __future__ import annotations

import collections
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edakari.errors import EdakariError

__all__ = [
    "Unreadable",
    "because",
    "inside",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "require_regular",
    "too_deep",
]

JSON_BYTES = 16 * 2**20
"""A plan names the channels it keeps, each in some six bytes, so millions fit; parsing it takes about a second."""
BRACKETS = 1_000_000
"""Lists and mappings of a JSON file: empty ones take three bytes of the file and sixty of memory."""
DEPTH = 64
"""Brackets within brackets: files of ours have fewer than ten, and code that walks them calls itself as deep."""
DIGITS = 100
"""Largest number of digits of an integer; states of random generators have 39."""
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Unreadable(EdakariError, ValueError):
    """The content of a file cannot be used; the message says why, and callers add the path."""


def because(error: Exception) -> str:
    """Describe why the content of a file cannot be used, for messages of callers that know the path.

    Args:
        error: error from reading the file or from missing content.
    """
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if isinstance(error, KeyError):
        return f"it has no key {error}"
    return f"{type(error).__name__}: {error}"


def read_bytes(path: str | Path, most: int = JSON_BYTES) -> bytes:
    """Read the bytes of a file.

    Args:
        path: path of the file.
        most: largest allowed number of bytes.

    Raises:
        OSError: the file does not exist, or is not readable.
        Unreadable: it is not a regular file (reading a pipe would wait forever), or too large.
    """
    require_regular(path)
    with Path(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Unreadable(f"it has more than {most // 2**10:,} kB, which no such file needs")
    return content


def require_regular(path: str | Path) -> None:
    """Raise an error for a pipe, a device, a socket or a folder.

    Raises:
        OSError: the path does not exist.
        Unreadable: it is not a regular file; the message says what it is.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise Unreadable(f"it is {KINDS.get(kind, 'something else')}, not a file")


def read_text(path: str | Path, most: int = JSON_BYTES) -> str:
    """Read a text file; see `read_bytes`.

    Raises:
        Unreadable: the file is not UTF-8, or see `read_bytes`.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8 text") from error


def read_json(path: str | Path, most: int = JSON_BYTES) -> Any:
    """Read the value in a JSON file; see `read_bytes` and `parse_json`."""
    return parse_json(read_text(path, most))


def parse_json(text: str, brackets: int = BRACKETS, each: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Parse a JSON text.

    Args:
        text: the text.
        brackets: largest number of lists and mappings.
        each: function that replaces every mapping as soon as it is read, such as by something smaller.

    Raises:
        Unreadable: it is not JSON, has a duplicate key or a huge number, or is nested too deeply.
    """
    if text.count("[") + text.count("{") > brackets:
        raise Unreadable(f"it has more than {brackets:,} lists and mappings, which no such file needs")
    hook = _mapping if each is None else lambda pairs: each(_mapping(pairs))
    try:
        value = json.loads(text, parse_int=_integer, object_pairs_hook=hook)
    except RecursionError:
        raise too_deep() from None
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"it is no JSON: {error}") from error
    layer: list[Any] = [value]
    for _ in range(DEPTH + 1):
        layer = [below for each in layer for below in _below(each) if isinstance(below, dict | list)]
        if not layer:
            return value
    raise too_deep()


def inside(folder: str | Path, path: str | Path) -> Path:
    """Resolve a path and check that it is inside a folder, through all links and `..`.

    Args:
        folder: the folder.
        path: path in the folder, or relative to it.

    Raises:
        Unreadable: the path leads out of the folder.
    """
    whole = Path(folder) / path
    try:
        leads = whole.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise Unreadable(f"{str(path)!r} leads nowhere: {error}") from error
    if not leads.is_relative_to(Path(folder).resolve()):
        raise Unreadable(f"{str(path)!r} leads out of the folder, to {leads}")
    return whole


def _below(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise Unreadable(f"it has a number of {len(text)} digits")
    return int(text)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise Unreadable(f"the key {twice!r} stands twice in one mapping")
    return found


def too_deep() -> Unreadable:
    """Make the error for lists and mappings that are nested more than `DEPTH` deep."""
    return Unreadable(f"it is nested more than {DEPTH} deep, which no such file needs")
