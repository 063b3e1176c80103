"""What the operating system says of files that a user named, in words: which file, why, and what to do."""

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
"""Longest name on most file systems, and what the name of a file has in front and behind while it is written."""


@contextlib.contextmanager
def file_errors(path: str | Path | None = None) -> Iterator[None]:
    """Turn what the operating system says of a file into one clear error; also a decorator.

    Errors that name no file, such as those of a network connection, go through as they are.

    Args:
        path: what the user named, where the operating system may name something else; None is what it names.

    Raises:
        RunFolderError: says which file, why it cannot be used, and what to do.
    """
    try:
        yield
    except OSError as error:
        if not (disk_full(error) or error.filename):
            raise
        raise RunFolderError(in_words(error, path)) from error


def in_words(error: Exception, path: str | Path | None = None) -> str:
    """Which file, why it cannot be used, and what to do.

    Args:
        error: of the operating system, or one that says that the disk is full.
        path: of the file, if it is another one than the error names.
    """
    named = error.filename if isinstance(error, OSError) else None
    where = path if path is not None else os.fsdecode(named) if named else "a file"
    if disk_full(error):
        return f"{where}: the disk is full; free some space and run the same command again"
    why, advice = _reason(error, Path(where)) if isinstance(error, OSError) else (str(error), "Name another place.")
    return f"{where} cannot be used: {why}. {advice}"


def disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full; safetensors says so in words only."""
    return (isinstance(error, OSError) and error.errno in FULL) or os.strerror(errno.ENOSPC) in str(error)


def require_writable(path: str | Path) -> None:
    """Try whether a file can be written at a path, before the work whose result it is to hold; nothing stays behind.

    Args:
        path: of a file, in a folder that need not be there yet.

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
