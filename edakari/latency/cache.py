"""The folder of latency tables, and whether files can be written there."""

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
    """Return the folder of latency tables: `latency` in EDAKARI_CACHE, or in ~/.cache/edakari.

    If the home folder is not writable, as in many containers, the tables lie in a folder of this user in the temporary
    folder, and a warning says so.

    Raises:
        MeasurementError: that folder belongs to another user.
    """
    given = os.environ.get("EDAKARI_CACHE")
    if given:
        return Path(given) / "latency"
    try:
        usual = Path.home() / ".cache" / "edakari" / "latency"
        if not os.access(usual, os.R_OK | os.X_OK):
            require_writable(usual / "table.json")
    except (RuntimeError, RunFolderError) as error:  # the home folder is unknown or not writable
        return _temporary_cache(str(error))
    return usual


def require_cache(path: Path) -> None:
    """Check that a table can be written, before its layers are measured for minutes.

    Args:
        path: path of the table.

    Raises:
        MeasurementError: the table cannot be written; says why, and what to do.
    """
    try:
        require_writable(path)
    except RunFolderError as error:
        raise MeasurementError(
            f"the table of latencies {error} EDAKARI_CACHE names a folder for all tables; so do --cache and "
            "latency.cache for one command and one recipe."
        ) from error


def _temporary_cache(reason: str) -> Path:
    """A folder into which no other user can have put a table."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"edakari-{user}"
    with file_errors():
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != user) or found.st_mode & 0o022:
        raise MeasurementError(
            f"the latency tables would lie in {folder}, but other users may write to it; name another folder by "
            "EDAKARI_CACHE"
        )
    warnings.warn(
        f"The latency tables lie in {folder}, as the home folder cannot hold them ({reason}). EDAKARI_CACHE names "
        "another folder.",
        EdakariWarning,
        stacklevel=3,
    )
    return folder / "latency"
