"""The control channel of a job's processes: waiting that costs nothing, and news of a process that failed or died.

Collectives of `torch.distributed` have a time limit, and block in a call that Python cannot interrupt. So a process
that works alone for minutes, or dies, must not leave the others in one. Here every process holds one TCP connection to
process 0. Waiting is a message on it; the operating system closes the connection of a process that ends in any way, and
notices by itself if a machine can no longer be reached. The channel carries no data.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from edakari.core.connections import Line, accepted, connected, listening
from edakari.errors import EdakariError, ProcessError

__all__ = ["ControlChannel", "control_channel", "first_line", "wire"]

GRACE = 5.0
"""Seconds in which a process may end by itself after another one failed; it may have the same error."""
LEAVE = 15.0
"""Further seconds until a process that is stuck, such as in a collective, is ended."""
PATIENCE = 10.0
"""Seconds in which the reason of a failed collective must arrive."""
PRINTING = 0.5
"""Seconds for the printing of an error: launchers end all processes as soon as the first one ends."""


class ControlChannel:
    """The connections of one process; run state.

    Args:
        rank: index of this process.
        world: number of processes.
        group: process group for which the channel was opened.
    """

    def __init__(self, rank: int, world: int, group: Any) -> None:
        self.rank, self.world, self.group = rank, world, weakref.ref(group)
        self.lines: dict[int, Line] = {}
        self.names: dict[int, str] = {rank: _own_name()}
        self._news = threading.Condition()
        self._turn = self._released = self._scopes = 0
        self._arrived: Counter[int] = Counter()
        self._fault: tuple[int, str] | None = None
        self._told = False

    def wait(self) -> None:
        """Wait until all processes have reached this call.

        Raises:
            ProcessError: another process failed or ended.
        """
        self._turn += 1
        if self.rank:
            self._send(0, "at", self._turn)
            self._await_release()
            return
        with self._news:
            while self._arrived[self._turn] < self.world - 1:
                self._raise_fault()
                self._news.wait(1.0)
            del self._arrived[self._turn]
        self._release()

    def wait_for_main(self) -> None:
        """Wait until process 0 has reached this call; process 0 waits for nobody.

        Raises:
            ProcessError: another process failed or ended.
        """
        self._turn += 1
        if self.rank:
            self._await_release()
        else:
            self._release()

    @contextlib.contextmanager
    def ending_together(self) -> Iterator[None]:
        """Context whose end all processes reach, or none: if one fails or dies, the others end with its name.

        Raises:
            ProcessError: another process failed or ended.
        """
        with self._news:
            self._raise_fault()
            self._scopes += 1
        try:
            yield
            self.wait()
        except ProcessError:
            raise
        except BaseException as error:
            reason = self._reason_of(error)
            if reason is not None:
                raise reason from error
            self._publish(first_line(error))
            raise
        finally:
            with self._news:
                self._scopes -= 1
                self._news.notify_all()

    def _release(self) -> None:
        for rank in self.lines:
            self._send(rank, "go", self._turn)

    def _await_release(self) -> None:
        with self._news:
            while self._released < self._turn:
                self._raise_fault()
                self._news.wait(1.0)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise ProcessError(self._fault[1], told=self._told)

    def _reason_of(self, error: BaseException) -> ProcessError | None:
        """The failure of another process that made a collective of this one fail; None for an error of its own."""
        if isinstance(error, EdakariError) or not _of_communication(error):
            return None
        until = time.monotonic() + PATIENCE
        with self._news:
            while self._fault is None and time.monotonic() < until:
                self._news.wait(0.5)
            return None if self._fault is None else ProcessError(self._fault[1], told=self._told)

    def _publish(self, text: str) -> None:
        """Tell the other processes that this one fails, and wait until process 0 has told the user."""
        if self.rank == 0:
            self._failed(0, f"failed: {text}")
            return
        self._send(0, "fault", text)
        until = time.monotonic() + GRACE + PATIENCE
        with self._news:
            while not self._told and self._fault is None and time.monotonic() < until:
                self._news.wait(0.5)

    def _failed(self, rank: int, what: str) -> None:
        """Note what happened to a process, pass it on, and see to it that this process ends, too."""
        with self._news:
            first = self._fault is None
            if first:
                self._fault = rank, f"process {rank} of {self.world} ({self.names.get(rank, 'unknown')}) {what}"
            self._news.notify_all()
        for other in self.lines if first and self.rank == 0 else ():
            if other != rank:
                self._send(other, "failed", rank, self.names.get(rank, ""), what)
        if first and rank != self.rank:
            threading.Thread(target=self._see_to_the_end, args=(rank,), daemon=True).start()
        elif self.rank == 0 and rank:
            self._send(rank, "told")

    def _see_to_the_end(self, rank: int) -> None:
        if not self._left_within(GRACE):
            if self.rank == 0 or (rank == 0 and self.rank == 1):
                sys.stderr.write(f"Error: {self._fault and self._fault[1]}; all processes end\n")
                sys.stderr.flush()
            self._told = True
        if self.rank == 0:
            time.sleep(PRINTING)
            self._send(rank, "told")
        if not self._left_within(LEAVE):
            os._exit(1)  # the main thread is in a call that nothing else interrupts

    def _left_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        with self._news:
            while self._scopes and time.monotonic() < until:
                self._news.wait(0.2)
            return not self._scopes

    def _send(self, rank: int, *message: Any) -> None:
        self.lines[rank].send(*message)

    def close(self) -> None:
        """Close the connections."""
        for line in self.lines.values():
            line.close()

    def forget(self) -> None:
        """Give up the connections in a forked process; those of the original process stay open."""
        for line in self.lines.values():
            line.forget()

    def listen(self) -> None:
        """Read the messages of every connection, each in a thread of its own."""
        for rank, line in self.lines.items():
            threading.Thread(target=self._read, args=(rank, line), daemon=True).start()

    def _read(self, rank: int, line: Line) -> None:
        for kind, *values in line.messages():
            if kind == "fault":
                self._failed(rank, f"failed: {values[0]}")
            elif kind == "failed":
                self.names[values[0]] = values[1]
                self._failed(values[0], values[2])
            else:
                with self._news:
                    if kind == "at":
                        self._arrived[values[0]] += 1
                    elif kind == "go":
                        self._released = max(self._released, values[0])
                    else:
                        self._told = True
                    self._news.notify_all()
        self._failed(rank, "has ended without a word: it was killed, or its machine cannot be reached")


def control_channel() -> ControlChannel:
    """Return the control channel of the current process group; the first call, by all processes, opens it.

    Raises:
        ProcessError: a process could not connect to process 0.
    """
    group = dist.group.WORLD
    if not _OPEN or _OPEN[0].group() is not group:
        for old in _OPEN:
            old.close()
        _OPEN[:] = [_opened(group)]
    return _OPEN[0]


_OPEN: list[ControlChannel] = []
"""The channel of the current process group, which is as global as the group."""


def _opened(group: Any) -> ControlChannel:
    channel = ControlChannel(dist.get_rank(), dist.get_world_size(), group)
    others = range(1, channel.world)
    if channel.rank == 0:
        with listening(channel.world) as (server, offer):
            dist.broadcast_object_list([(offer, channel.names[0])], 0, device=wire())
            channel.lines, names = accepted(server, offer, others)
            channel.names |= names
    else:
        found: list[Any] = [None]
        dist.broadcast_object_list(found, 0, device=wire())
        offer, channel.names[0] = found[0]
        channel.lines[0] = connected(offer, channel.rank, channel.names[channel.rank])
    channel.listen()
    return channel


def _forget_in_child() -> None:
    # a child that outlives its parent would keep the connection open
    for channel in _OPEN:
        channel.forget()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _own_name() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


def wire() -> torch.device:
    """Return the device of tensors that processes send to each other."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _of_communication(error: BaseException) -> bool:
    """Whether an error is one of a collective whose other processes are gone."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
