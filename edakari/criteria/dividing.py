"""Division of scoring images among processes: each loads and runs its part of the first batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edakari.core.processes import Processes, divided
from edakari.core.protocols import Batch
from edakari.errors import DataError

__all__ = ["own_batches", "until"]


def until(batches: Iterable[Batch], images: int) -> Iterator[Batch]:
    """Yield batches until the number of images is reached.

    Raises:
        DataError: there are no images.
    """
    seen = 0
    for batch in batches:
        yield batch
        seen += len(batch[0])
        if seen >= images:
            return
    if not seen:
        raise _empty()


def own_batches(batches: Iterable[Batch], images: int) -> Iterator[tuple[int, Batch]]:
    """Yield this process's part of the batches of `until`, each with the index of its first image among all images.

    Args:
        batches: batches, the same on all processes. If they tell their size and can be skipped, as those of edakari's
            data can, no process loads the batches of another one.
        images: number of images to reach.

    Raises:
        DataError: there are no images.
    """
    here = Processes.here()
    size = getattr(getattr(batches, "order", None), "batch_size", None)
    if here.world == 1 or size is None or divided(batches) or not hasattr(batches, "skip"):
        first = 0
        for turn, batch in enumerate(until(batches, images)):
            if turn % here.world == here.rank:
                yield first, batch
            first += len(batch[0])
        return
    if not len(batches):  # type: ignore[arg-type]
        raise _empty()
    for number, batch in here.numbered(batches, -(-images // size)):
        yield number * size, batch


def _empty() -> DataError:
    return DataError("there are no scoring images; is the training data empty?")
