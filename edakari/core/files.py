"""Atomic writing of files: a reader finds the old or the new content, never a part."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edakari.core.file_errors import disk_full, file_errors, in_words
from edakari.core.ledger import enlist
from edakari.errors import EdakariError, RunFolderError

__all__ = ["json_text", "replacing", "write_json", "write_text"]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Context with a temporary path that replaces `path` if the block succeeds, and is removed if it fails.

    Raises:
        RunFolderError: the file cannot be written, or the disk is full; the message says why and what to do.
    """
    path = Path(path)
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        enlist(path)  # before there is anything of it, so that no kill leaves a file that is on no list
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except Exception as error:
        ours = isinstance(error, OSError) and error.filename in (None, name)
        if ours or disk_full(error):
            raise RunFolderError(in_words(error, path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, content: Any) -> None:
    """Write a value as JSON, atomically."""
    write_text(path, json_text(content, str(path), indent=2, ensure_ascii=False) + "\n")


def json_text(content: Any, what: str, **form: Any) -> str:
    """Convert a value to JSON, which has no NaN and no infinity.

    Args:
        content: dicts, lists, strings, numbers, booleans and None.
        what: name of the content, for the message.
        form: see `json.dumps`.

    Raises:
        EdakariError: a number is not finite; the message says where.
    """
    try:
        return json.dumps(content, allow_nan=False, **form)
    except ValueError as error:
        if "float" not in str(error):  # a circle, say
            raise
        where, value = next(_not_finite(content, ""))
        raise EdakariError(
            f"{what}: {where or 'the value'} is {value}, and JSON has no such number; find out which step made it"
        ) from None


def _not_finite(content: Any, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(content, float) and not math.isfinite(content):
        yield where, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _not_finite(value, f"{where}.{key}" if where else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _not_finite(value, f"{where}[{index}]")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
