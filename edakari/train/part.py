"""A part of each pass over some batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from edakari.core.protocols import Batch

__all__ = ["PartOfEach"]


class PartOfEach:
    """The first batches of each pass; where passes are shuffled, other images each time.

    Args:
        batches: with a length.
        share: of each pass that is given, above 0 and up to 1; at least one batch.
    """

    def __init__(self, batches: Any, share: float) -> None:
        self.batches, self.count = batches, max(1, round(share * len(batches)))

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is."""
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(epoch)

    def skip(self, count: int) -> Iterator[Batch]:
        """The same pass without its first batches."""
        if hasattr(self.batches, "skip"):
            return itertools.islice(self.batches.skip(count), max(0, self.count - count))
        return itertools.islice(self.batches, count, self.count)

    def __iter__(self) -> Iterator[Batch]:
        return self.skip(0)
