"""Where tables of latencies lie, and whether they can be written there."""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from pathlib import Path

from edakari.core.file_errors import file_errors, require_writable
from edakari.errors import EdakariWarning, MeasurementError, RunFolderError

__all__ = ["cache_folder", "require_cache"]


def cache_folder() -> Path:
    """Where tables lie: `latency` in EDAKARI_CACHE, or in ~/.cache/edakari.

    Without a home folder that can be written to, as in many containers, a warning says that they lie in a folder of
    this user's in the temporary folder instead.

    Raises:
        MeasurementError: that folder is somebody else's.
    """
    given = os.environ.get("EDAKARI_CACHE")
    if given:
        return Path(given) / "latency"
    try:
        usual = Path.home() / ".cache" / "edakari" / "latency"
        if not os.access(usual, os.R_OK | os.X_OK):
            require_writable(usual / "table.json")
    except (RuntimeError, RunFolderError) as error:  # nobody knows where home is, or nothing can be written there
        return _temporary_cache(str(error))
    return usual


def require_cache(path: Path) -> None:
    """Try whether a table can be written, before the minutes that it takes to measure what goes into it.

    Args:
        path: of the table.

    Raises:
        MeasurementError: says why not, and what to do.
    """
    try:
        require_writable(path)
    except RunFolderError as error:
        raise MeasurementError(
            f"the table of latencies {error} EDAKARI_CACHE names a folder for all tables; so do --cache and "
            "latency.cache for one command and one recipe."
        ) from error


def _temporary_cache(reason: str) -> Path:
    """A folder that nobody else can have put a table into."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"edakari-{user}"
    with file_errors():
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != user) or found.st_mode & 0o022:
        raise MeasurementError(
            f"{folder} would hold the tables of latencies, but others may write to it; name another by EDAKARI_CACHE"
        )
    warnings.warn(
        f"Tables of latencies lie in {folder}, as there is no place for them at home ({reason}). EDAKARI_CACHE names "
        "another folder.",
        EdakariWarning,
        stacklevel=3,
    )
    return folder / "latency"
