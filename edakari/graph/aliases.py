"""Finds which operators write in place into which tensors, also through views."""

from __future__ import annotations

import bisect
import collections
from collections.abc import Collection, Iterator, Sequence

from edakari.graph.operators import Trait, having
from edakari.graph.records import OperatorRecord

__all__ = ["Memory"]

VIEWS = having(Trait.VIEW)

Root = int | str | None
"""Owner of a tensor's memory: index of the record that made it, name of a parameter or buffer, None for an input."""


class Memory:
    """Reads and writes of a recorded forward pass, including those through views.

    Args:
        records: records of the forward pass, in order.

    Attributes:
        sources: for each record, the records that it depends on directly. These include records that wrote in place
            into the memory that it reads.
    """

    def __init__(self, records: Sequence[OperatorRecord]) -> None:
        self.roots: list[Root] = []
        self.writes: list[tuple[int, Root]] = []
        """Each record that writes in place, and into what."""
        self.sources: list[tuple[int, ...]] = []
        self._writers: dict[Root, list[int]] = collections.defaultdict(list)
        for index, record in enumerate(records):
            writes = record.name.endswith("_") and bool(record.arguments)
            shares = writes or (record.name in VIEWS and bool(record.arguments))
            seen = (each for argument in record.arguments for each in self.seen(argument, index))
            self.sources.append(tuple(dict.fromkeys(seen)))
            self.roots.append(self._root(record.arguments[0]) if shares else index)
            if writes:
                self.writes.append((index, self.roots[index]))
                self._writers[self.roots[index]].append(index)

    def _root(self, tensor: Root) -> Root:
        return self.roots[tensor] if isinstance(tensor, int) else tensor

    def seen(self, tensor: Root, reader: int) -> Iterator[int]:
        """Yield the records that a tensor depends on when it is read: its own, and the last that wrote to it."""
        if isinstance(tensor, int):
            yield tensor
        writers = self._writers.get(self._root(tensor), ())
        behind = bisect.bisect_left(writers, reader)
        if behind:
            yield writers[behind - 1]  # a write depends on the previous one

    def is_written(self, memory: Collection[int], by_others_than: Collection[int]) -> bool:
        """Whether records other than these write in place into memory that records in `memory` made."""
        return any(root in memory and index not in by_others_than for index, root in self.writes)
