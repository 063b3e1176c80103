"""Number of optimizer steps per epoch, and the batches of each step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from edakari.core.protocols import Batch, Schedule
from edakari.errors import DataError

__all__ = ["groups_of", "steps_per_epoch"]


def steps_per_epoch(batches: Iterable[Batch], schedule: Schedule) -> int:
    """Return the number of optimizer steps that `fit` takes per epoch.

    Raises:
        DataError: the batches have no length, or there are none.
    """
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        raise DataError(
            f"fit: batches of type {type(batches).__name__} have no length; give a list or loader"
        ) from None
    if count == 0:
        raise DataError("fit: there are no batches to train on; is the batch size above the number of images?")
    return math.ceil(count / schedule.accumulate)


def groups_of(batches: Iterable[Batch], epoch: int, first: int, size: int) -> Iterator[Sequence[Batch]]:
    """Yield the batches of each optimizer step of an epoch, starting at batch `first`."""
    if hasattr(batches, "set_epoch"):
        batches.set_epoch(epoch)
    rest = batches.skip(first) if hasattr(batches, "skip") else itertools.islice(batches, first, None)
    iterator = iter(rest)
    while group := list(itertools.islice(iterator, size)):
        yield group
