"""Garbage collection while many objects are made."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["collecting_new_objects"]


@contextlib.contextmanager
def collecting_new_objects() -> Iterator[None]:
    """Context manager in which the garbage collector only examines objects that are made inside of it.

    Otherwise, the objects of a trace let it examine all objects of all imported libraries again and again. A program
    that has frozen objects itself is left alone.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
