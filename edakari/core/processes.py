"""The processes of a job: which one writes, their devices, and their communication.

A job determines its processes once and passes the result on (`edakari.pipeline.processes.started` sets them up if a
launcher has started several). Code that can be called from anywhere, such as a criterion, uses `Processes.here()`. With
one process nothing is sent.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
import datetime
import itertools
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from edakari.core.control import control_channel, first_line, wire
from edakari.errors import EdakariError, ProcessError, SettingsError

__all__ = ["ALONE", "TIMEOUT", "Processes", "divided", "time_limit"]

T = TypeVar("T")


@dc.dataclass(frozen=True)
class Processes:
    """The processes of a job, from the view of one of them.

    Args:
        rank: index of this process.
        world: number of processes.
        device: device of this process.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = dc.field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def here(cls, device: torch.device | None = None) -> Processes:
        """Return the processes of `torch.distributed`; one process if it was not set up.

        Args:
            device: device of this process; None means the CPU.
        """
        device = torch.device("cpu") if device is None else device
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(device=device)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have reached this call, without a time limit.

        Raises:
            ProcessError: another process failed or ended.
        """
        if self.world > 1:
            control_channel().wait()

    def from_main(self, make: Callable[[], T]) -> T:
        """Compute a value in the main process and return it on every process; the others wait without a time limit.

        Args:
            make: function that is called only in the main process; its result must be picklable. An `EdakariError` of
                it is raised on every process.

        Raises:
            ProcessError: the main process ended, or its function raised another error.
        """
        if self.world == 1:
            return make()
        channel = control_channel()
        found: list[Any] = [_attempted(make) if self.main else None]
        channel.wait_for_main()
        dist.broadcast_object_list(found, 0, device=wire())
        outcome: _Attempt = found[0]
        if outcome.error is not None:
            raise outcome.error
        made: T = outcome.value
        return made

    def ending_together(self) -> contextlib.AbstractContextManager[None]:
        """Return a context whose end all processes reach, or none.

        If a process raises an error or dies inside of it, the others end within half a minute, wherever they are, and
        one of them says which process it was and why.

        Raises:
            ProcessError: another process failed or ended.
        """
        return control_channel().ending_together() if self.world > 1 else contextlib.nullcontext()

    def agreed(self, answer: T) -> T:
        """Return the main process's value on every process."""
        return self.from_main(lambda: answer)

    def share(self, count: int) -> range:
        """Return this process's part of `count` jobs: contiguous ranges whose lengths differ by at most one."""
        each, more = divmod(count, self.world)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def own(self, batches: Iterable[T], most: int | None = None) -> Iterator[T]:
        """Yield this process's part of some batches; see `numbered`."""
        return (batch for _, batch in self.numbered(batches, most))

    def numbered(self, batches: Iterable[T], most: int | None = None) -> Iterator[tuple[int, T]]:
        """Yield this process's part of some batches, each with its number among all batches.

        Batches with a length are divided into contiguous ranges; if they have a method `skip(count)`, as those of
        edakari's data have, no process loads the batches of another one. Of others, each process takes every
        world-size-th one.

        Args:
            batches: batches, the same on all processes. If they are the part of this process already (see `divided`),
                none is left out.
            most: largest number of batches, over all processes; None takes all.
        """
        if self.world == 1 or divided(batches):
            yield from itertools.islice(enumerate(batches), most)
        elif (count := _length(batches)) is None:
            yield from itertools.islice(enumerate(batches), self.rank, most, self.world)
        else:
            part = self.share(count if most is None else min(count, most))
            if part:
                rest = batches.skip(part.start) if hasattr(batches, "skip") else None
                found = itertools.islice(batches, part.start, part.stop) if rest is None else iter(rest)
                yield from zip(part, found, strict=False)

    def joined(self, found: Mapping[int, T]) -> list[T]:
        """Gather what each process has found for its batches of `numbered`, in the order of all batches.

        Args:
            found: what this process has found, by the number of the batch.
        """
        every = {number: value for part in self.gathered_objects(dict(found)) for number, value in part.items()}
        return [every[number] for number in sorted(every)]

    def mean(self, values: Iterable[float]) -> float:
        """Return the mean of the values of all processes, of which some may have none; NaN if all have none."""
        own = list(values)
        total, count = self.reduced(torch.tensor([math.fsum(own), len(own)], dtype=torch.float64)).tolist()
        return total / count if count else math.nan

    def reduced(self, tensor: torch.Tensor, how: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> torch.Tensor:
        """Reduce a tensor elementwise over all processes; with one process, return the tensor itself.

        A sum is exact if each entry is nonzero on at most one process.

        Args:
            tensor: tensor with the same shape and type on each process.
            how: reduction: sum, minimum or maximum.
        """
        if self.world == 1:
            return tensor
        total = tensor.cuda() if wire().type == "cuda" else tensor.clone()
        dist.all_reduce(total, how)
        return total.to(tensor.device)

    def gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Gather the tensors of all processes, in order of rank.

        Args:
            tensor: tensor with the same shape and type on each process.
        """
        if self.world == 1:
            return [tensor]
        own = tensor.to(wire())
        found = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(found, own)
        return [each.to(tensor.device) for each in found]

    def gathered_objects(self, value: T) -> list[T]:
        """Gather the picklable values of all processes, in order of rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def first_fault(self, fault: str) -> str:
        """Return the first fault of any process, so that all stop together; nothing if no process has one.

        Args:
            fault: what is wrong in this process; empty if nothing is.
        """
        return next(filter(None, self.gathered_objects(fault)), "")

    def equalise_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Broadcast the main process's values to tensors, in place.

        Args:
            tensors: tensors with the same shapes, types and order on each process.
        """
        if self.world > 1:
            for tensor in tensors:
                on_wire = tensor.detach().to(wire())
                dist.broadcast(on_wire, 0)
                tensor.detach().copy_(on_wire)


ALONE = Processes()
"""One process, on the CPU."""


def divided(batches: Iterable[Any]) -> bool:
    """Return whether batches are the part of this process: of edakari's data, or with a true attribute `divided`."""
    own = getattr(batches, "divided", None)
    return bool(own) if own is not None else not getattr(getattr(batches, "order", None), "shared", True)


def _length(batches: Iterable[Any]) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None


@dc.dataclass(frozen=True)
class _Attempt:
    """What the main process computed, or the error that it raised."""

    value: Any = None
    error: BaseException | None = None

    def __getstate__(self) -> tuple[Any, BaseException | None]:
        # the others get an error that can be sent; the main process raises the original one
        return self.value, None if self.error is None else _sendable(self.error)

    def __setstate__(self, state: tuple[Any, BaseException | None]) -> None:
        for name, value in zip(("value", "error"), state, strict=True):
            object.__setattr__(self, name, value)


def _attempted(make: Callable[[], Any]) -> _Attempt:
    try:
        return _Attempt(value=make())
    except Exception as error:
        return _Attempt(error=error)


def _sendable(error: BaseException) -> BaseException:
    if not isinstance(error, EdakariError):
        return ProcessError(f"process 0 failed: {first_line(error)}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error with other arguments than its text
        return EdakariError(str(error))
    return error


TIMEOUT = "EDAKARI_TIMEOUT_HOURS"
"""Environment variable with the time limit of collectives, in hours."""
HOURS = 12.0


def time_limit() -> datetime.timedelta:
    """Return the time limit of collectives for a process group that edakari sets up: 12 hours, or the user's.

    Raises:
        SettingsError: the environment variable is not a positive number.
    """
    text = os.environ.get(TIMEOUT, "") or str(HOURS)
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < 1e6:
        raise SettingsError(f"{TIMEOUT} is the time limit of collectives in hours, such as 12, found {text!r}")
    return datetime.timedelta(hours=hours)
