"""Preparation of the next batch on a device, while the network works on the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import torch

__all__ = ["SideStream", "ahead", "side_stream"]

Raw = TypeVar("Raw")
Batch = TypeVar("Batch")


class SideStream(Protocol):
    """Order of work on a device, beside that of the network."""

    def ran(self, make: Callable[[], Batch]) -> tuple[Batch, Any]:
        """Call a function, whose work on the device is queued here; returns its result and a mark of its end."""

    def handed_over(self, batch: Batch, mark: Any) -> Batch:
        """Let the network's work wait for the mark; returns the batch."""


def ahead(raw: Iterable[Raw], make: Callable[[Raw], Batch], side: SideStream | None) -> Iterator[Batch]:
    """Yield what a function makes of each item.

    Args:
        raw: batches as workers give them.
        make: function that copies and transforms a batch.
        side: order of work in which batches are made, one ahead; None makes them when they are due.
    """
    if side is None:
        yield from map(make, raw)
        return
    due: tuple[Batch, Any] | None = None
    for each in raw:
        following = side.ran(lambda each=each: make(each))  # type: ignore[misc]
        if due is not None:
            yield side.handed_over(*due)
        due = following
    if due is not None:
        yield side.handed_over(*due)


def side_stream(device: torch.device | None) -> SideStream | None:
    """Return a stream of a CUDA device; None for others."""
    return CudaStream(device) if device is not None and device.type == "cuda" else None


class CudaStream:
    """A stream beside the one on which the network runs.

    Args:
        device: the CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = _cuda().Stream(device)

    def ran(self, make: Callable[[], Batch]) -> tuple[Batch, Any]:
        """See `SideStream`."""
        with _cuda().stream(self.stream):
            batch = make()
            mark = _cuda().Event()
            mark.record(self.stream)
        return batch, mark

    def handed_over(self, batch: Batch, mark: Any) -> Batch:
        """See `SideStream`."""
        network = _cuda().current_stream(self.device)
        network.wait_event(mark)
        for tensor in batch if isinstance(batch, tuple) else ():
            if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                # its memory belongs to the side stream, which may use it again only when the network is done
                tensor.record_stream(network)
        return batch


def _cuda() -> Any:
    """PyTorch's module, whose streams have no type annotations."""
    return torch.cuda
