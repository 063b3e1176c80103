"""The storage of a sweep's queue: a journal file, SQLite, or a database server, all by optuna."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edakari.core.optional import needs
from edakari.errors import SweepError

with needs("sweep", "a sweep"):
    import optuna
    from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
    from optuna.storages.journal import JournalFileBackend

__all__ = ["JOURNAL", "Storage", "open_storage", "storage_errors"]

JOURNAL = "journal.log"
URL = re.compile(r"[a-z][a-z0-9+]*://")
HEARTBEAT, GRACE = 60, 600
"""Seconds between two signs of life of a trial, and after which one without is taken for dead: machines pause."""
RETRIES = 5
"""Times that a run starts again after its worker died; a run that kills every worker must not go on for ever."""
PATIENCE = 120
"""Seconds for which a locked SQLite file is waited on."""


@dc.dataclass(frozen=True)
class Storage:
    """Where the queue of a sweep is.

    Args:
        opened: storage of optuna.
        shown: its name for messages, without a password.
        local: whether all workers share the file system of the sweep's folder, where locks say who is alive.
    """

    opened: Any
    shown: str
    local: bool


def open_storage(asked: str | None, folder: Path) -> Storage:
    """Open or make the storage of a sweep.

    Args:
        asked: path of a journal file, or a URL; None is a journal file in the folder.
        folder: folder of the sweep.

    Raises:
        SweepError: it cannot be reached or opened; says why, and what to do.
    """
    if asked is not None and URL.match(asked):
        return _database(asked)
    path = folder / JOURNAL if asked is None else Path(asked)
    with storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        return Storage(JournalStorage(JournalFileBackend(str(path))), str(path), local=True)


def _database(url: str) -> Storage:
    with needs("sweep", "a sweep"):
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise SweepError(
            "storage is no URL of a database, such as sqlite:///sweep.db or postgresql+psycopg://user@host/name"
        ) from None
    local = url.startswith("sqlite")
    # a heartbeat is one more writer, which a SQLite file does not bear; there the locks of workers tell who is alive
    signs: dict[str, Any] = {} if local else {"heartbeat_interval": HEARTBEAT, "grace_period": GRACE}
    options: dict[str, Any] = {"connect_args": {"timeout": PATIENCE}} if local else {"pool_pre_ping": True}
    with storage_errors(shown), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        retry = None if local else RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
        opened = RDBStorage(url, engine_kwargs=options, heartbeat_stale_trial_callback=retry, **signs)
    return Storage(opened, shown, local)


@contextlib.contextmanager
def storage_errors(shown: str) -> Iterator[None]:
    """Context that turns errors of a storage into one that says what to do.

    Args:
        shown: name of the storage.

    Raises:
        SweepError: the storage is locked, unreachable or damaged.
    """
    try:
        yield
    except ImportError as error:
        package = getattr(error.__cause__ or error, "name", None) or "of its driver"
        raise SweepError(
            f"storage {shown} needs the package {package}, which is not installed; install it with pip, or name "
            "another driver in the URL"
        ) from error
    except (optuna.exceptions.StorageInternalError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, ValueError) and "log format" not in str(error):
            raise
        raise SweepError(_said(shown, error)) from error
    except Exception as error:
        if type(error).__module__.startswith("sqlalchemy"):
            raise SweepError(_said(shown, error)) from error
        raise


def _said(shown: str, error: BaseException) -> str:
    cause = str(error.__cause__ or error).partition("\n")[0]
    if "locked" in cause:
        return (
            f"storage {shown} is locked by another program for more than {PATIENCE} s: {cause}. Close what holds it, "
            "or take a journal file or a database server for several workers"
        )
    return f"storage {shown} cannot be used: {cause}. Start the server, or name another storage, and run it again"
