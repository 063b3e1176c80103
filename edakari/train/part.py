"""A fraction of each pass over some batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from edakari.core.protocols import Batch

__all__ = ["PartOfEach"]


class PartOfEach:
    """The first batches of each pass; with shuffling, each pass gives different images.

    Args:
        batches: iterable of batches with a length.
        share: fraction of each pass, above 0 and at most 1; at least one batch is given.
    """

    def __init__(self, batches: Any, share: float) -> None:
        self.batches, self.count = batches, max(1, round(share * len(batches)))

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(epoch)

    def skip(self, count: int) -> Iterator[Batch]:
        """Return the same pass without its first batches."""
        if hasattr(self.batches, "skip"):
            return itertools.islice(self.batches.skip(count), max(0, self.count - count))
        return itertools.islice(self.batches, count, self.count)

    def __iter__(self) -> Iterator[Batch]:
        return self.skip(0)
