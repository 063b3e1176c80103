"""Worker processes that make batches, kept from pass to pass."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from edakari.errors import DataError

__all__ = ["Workers"]

Call = TypeVar("Call", bound=Callable[[Any], Any])


class Workers(Generic[Call]):
    """Processes that call a function with one request after the other.

    They start with the first pass over some requests and stay: later passes do not wait for new ones to start. A pass
    that begins within another one gets processes of its own.

    Args:
        call: function from a request to a batch. Its result depends on nothing but the request.
        count: number of processes; 0 calls it in this process.
        pin: whether batches lie in page-locked memory, from which copies to a GPU do not wait.
    """

    def __init__(self, call: Call, count: int, *, pin: bool = False) -> None:
        self.call, self.count, self.pin = call, count, pin
        self._kept: DataLoader[Any] | None = None
        self._requests = _Requests()
        self._used = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"call": self.call, "count": self.count, "pin": self.pin}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["call"], state["count"], pin=state["pin"])  # type: ignore[misc]

    def batches(self, requests: Sequence[Any]) -> Iterator[Any]:
        """Yield the batch of each request, in their order.

        Raises:
            DataError: an image cannot be read.
        """
        keep = self.count > 0 and self._used.acquire(blocking=False)
        try:
            if not keep:
                yield from self._loader(_Requests(requests), keep)
                return
            self._requests.now = requests
            if self._kept is None:
                self._kept = self._loader(self._requests, keep)
            yield from self._kept
        except GeneratorExit:
            # what was asked for beyond that is thrown away at the start of the next pass
            raise
        except DataError as error:
            self._kept = None
            # a worker's error arrives with its complete traceback
            raise DataError(str(error).strip().splitlines()[-1].removeprefix("edakari.errors.DataError: ")) from None
        except BaseException:
            self._kept = None
            raise
        finally:
            if keep:
                self._used.release()

    def _loader(self, requests: _Requests, keep: bool) -> DataLoader[Any]:
        return DataLoader(
            _Called(self.call),
            batch_sampler=requests,
            num_workers=self.count,
            collate_fn=_as_it_is,
            worker_init_fn=_deaf,
            # Its own: the loader would draw a seed from the global state otherwise.
            generator=torch.Generator().manual_seed(0),
            pin_memory=self.pin,
            persistent_workers=keep,
        )


class _Requests:
    """The requests of the pass that begins; takes the place of a sampler."""

    def __init__(self, now: Sequence[Any] = ()) -> None:
        self.now = now

    def __iter__(self) -> Iterator[Any]:
        return iter(self.now)


class _Called(Dataset[Any]):
    """A function as a data set, whose "indices" are requests."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self.call = call

    def __getitem__(self, request: Any) -> Any:
        return self.call(request)

    def __getitems__(self, request: Any) -> Any:
        return self.call(request)


def _as_it_is(batch: Any) -> Any:
    return batch


def _deaf(worker: int) -> None:
    # Ctrl-C reaches the workers, too; the main process decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
