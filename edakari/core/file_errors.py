"""Clear messages for operating system errors about files: which file, why, and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edakari.errors import RunFolderError

__all__ = ["disk_full", "file_errors", "in_words", "require_writable"]

FULL = (errno.ENOSPC, errno.EDQUOT)
NAME_BYTES, TEMPORARY_BYTES = 255, 16
"""Longest file name on most file systems, and the extra length of a temporary name."""


@contextlib.contextmanager
def file_errors(path: str | Path | None = None) -> Iterator[None]:
    """Context or decorator that turns operating system errors about files into one clear error.

    Errors without a file name, such as those of a network connection, are not changed.

    Args:
        path: path that the user gave; None takes the path in the error.

    Raises:
        RunFolderError: a file cannot be used; the message says which file, why, and what to do.
    """
    try:
        yield
    except OSError as error:
        if not (disk_full(error) or error.filename):
            raise
        raise RunFolderError(in_words(error, path)) from error


def in_words(error: Exception, path: str | Path | None = None) -> str:
    """Describe which file cannot be used, why, and what to do.

    Args:
        error: an operating system error, or an error about a full disk.
        path: path of the file, if it differs from the path in the error.
    """
    named = error.filename if isinstance(error, OSError) else None
    where = path if path is not None else os.fsdecode(named) if named else "a file"
    if disk_full(error):
        return f"{where}: the disk is full; free some space and run the same command again"
    why, advice = _reason(error, Path(where)) if isinstance(error, OSError) else (str(error), "Name another place.")
    return f"{where} cannot be used: {why}. {advice}"


def disk_full(error: BaseException) -> bool:
    """Return whether an error means a full disk; safetensors only says so in its text."""
    return (isinstance(error, OSError) and error.errno in FULL) or os.strerror(errno.ENOSPC) in str(error)


def require_writable(path: str | Path) -> None:
    """Check that a file can be written before the work for its content starts; leaves no file behind.

    Args:
        path: path of a file, in a folder that may not exist yet.

    Raises:
        RunFolderError: says why not, and what to do.
    """
    path = Path(path)
    with file_errors(path):
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        parents = path.absolute().parents
        there = next((parent for parent in parents if os.path.lexists(parent)), parents[-1])
        for part in path.absolute().relative_to(there).parts:
            if len(os.fsencode(part)) > NAME_BYTES - TEMPORARY_BYTES * (part == path.name):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
        if not there.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        with tempfile.TemporaryFile(dir=there):
            pass


def _reason(error: OSError, path: Path) -> tuple[str, str]:
    """Why a file cannot be used, and what to do."""
    said = (error.strerror or str(error)).lower()
    file = next((parent for parent in (path, *path.parents) if _is_file(parent)), None)
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and file is not None:
        return f"{file} is a file, not a folder", "Name another folder, or move the file away."
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return f"{said}{_owner(path)}", "Name another place, or change its permissions."
        case errno.EROFS:
            return "it lies on a file system that is read-only", "Name another place."
        case errno.ENAMETOOLONG:
            return "the name is too long", "Name a shorter one."
        case errno.EISDIR:
            return "it is a folder, not a file", "Name a file."
        case errno.ENOENT if not os.path.lexists(path):
            return "there is no such file or folder, and it cannot be made there", "Name another place."
        case errno.ELOOP:
            return "it is a link that leads to itself", "Name the file that is meant."
        case errno.EMFILE | errno.ENFILE:
            return "too many files are open", "Allow more, such as by `ulimit -n 4096`."
    return said, "Name another place, or look after the disk."


def _owner(path: Path) -> str:
    """Who may write there, where it can be seen."""
    for index in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            found = index.stat()
            kind = "folder" if stat.S_ISDIR(found.st_mode) else "file"
            mode = stat.filemode(found.st_mode)[1:]
            return f" (the {kind} {index} is user {found.st_uid}'s with mode {mode}, and you are user {_user()})"
    return ""


def _user() -> int | str:
    return os.geteuid() if hasattr(os, "geteuid") else "unknown"


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.stat().st_mode)
    return False
