"""Reading by one of several processes: a folder of a million files is listed once, not once for each process."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import TypeVar

from edakari.core.processes import ALONE, Processes

__all__ = ["read_once", "reading_together"]

T = TypeVar("T")

_READERS: contextvars.ContextVar[Processes] = contextvars.ContextVar("readers", default=ALONE)
"""The processes that are inside `reading_together`; outside of it each one reads for itself."""


@contextlib.contextmanager
def reading_together(processes: Processes) -> Iterator[None]:
    """Context in which all processes open the same data, so that the main process can list files for all of them.

    Args:
        processes: processes that all enter the context.
    """
    token = _READERS.set(processes)
    try:
        yield
    finally:
        _READERS.reset(token)


def read_once(read: Callable[[], T]) -> T:
    """Return what a function reads; inside `reading_together`, the main process alone reads, and tells the others.

    Args:
        read: function whose result is picklable; it must not call `read_once` itself.

    Raises:
        EdakariError: the function raised it, in whichever process it ran.
    """
    return _READERS.get().from_main(read)
