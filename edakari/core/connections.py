"""TCP connections between processes that carry short messages: lists of plain values, one per line, as JSON."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

from edakari.errors import ProcessError

__all__ = ["Line", "Offer", "accepted", "connected", "listening"]

CONNECT = 60.0
"""Seconds within which all processes must have connected."""
HELLO = 5.0
"""Seconds in which a connection must say whose it is."""
KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 30_000))
"""Options by which the operating system notices within half a minute that the other machine is gone."""


@dc.dataclass(frozen=True)
class Offer:
    """Where a process listens.

    Args:
        hosts: names or addresses of its machine, to be tried in order.
        port: TCP port.
        token: secret with which a connection begins.
    """

    hosts: tuple[str, ...]
    port: int
    token: str


class Line:
    """A connection to another process; run state.

    Args:
        connection: a connected socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._rest, self._sending = connection, b"", threading.Lock()

    def send(self, *message: Any) -> None:
        """Send a message; if the other process is gone, nothing happens, as its reader notices."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[list[Any]]:
        """Yield messages until the connection ends, however it ends."""
        while True:
            while b"\n" in self._rest:
                first, self._rest = self._rest.split(b"\n", 1)
                yield json.loads(first)
            try:
                found = self._connection.recv(4096)
            except OSError:
                return
            if not found:
                return
            self._rest += found

    def greeting(self) -> list[Any]:
        """Return the first message; an empty one if none comes in time."""
        self._connection.settimeout(HELLO)
        try:
            found = next(self.messages(), [])
        except ValueError:  # of a stranger
            return []
        return found if isinstance(found, list) else []

    def keep(self) -> None:
        """Wait for messages without a time limit, as long as the other machine can be reached."""
        self._connection.settimeout(None)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE:
            if hasattr(socket, name):  # not on every system
                self._connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes its reader
        self.forget()

    def forget(self) -> None:
        """Close the copy of the connection that a forked process has got; that of the original process stays open."""
        with contextlib.suppress(OSError):
            os.close(self._connection.detach())


@contextlib.contextmanager
def listening(count: int) -> Iterator[tuple[socket.socket, Offer]]:
    """Context with a socket on which this process can be reached, and what others must know of it.

    Args:
        count: number of processes.
    """
    with socket.create_server(("", 0), backlog=count) as server:
        hosts = tuple(host for host in (os.environ.get("MASTER_ADDR", ""), socket.gethostname()) if host)
        yield server, Offer(hosts, server.getsockname()[1], secrets.token_hex(16))


def accepted(server: socket.socket, offer: Offer, wanted: Collection[int]) -> tuple[dict[int, Line], dict[int, str]]:
    """Accept the connections of other processes; returns them, and the processes' names.

    Args:
        server: listening socket.
        offer: what the others know of it.
        wanted: indices of the processes.

    Raises:
        ProcessError: some have not connected in time.
    """
    until = time.monotonic() + CONNECT
    lines: dict[int, Line] = {}
    names: dict[int, str] = {}
    while len(lines) < len(wanted):
        server.settimeout(max(0.1, until - time.monotonic()))
        try:
            line = Line(server.accept()[0])
        except TimeoutError:
            raise ProcessError(
                f"processes {sorted(set(wanted) - set(lines))} have not connected to process 0 within {CONNECT:.0f} s; "
                f"its machine must accept connections on any port (here {offer.port}) from the machines of the others"
            ) from None
        match line.greeting():
            case [str(token), int(rank), str(name)] if hmac.compare_digest(token, offer.token) and rank in wanted:
                line.keep()
                lines[rank], names[rank] = line, name
            case _:
                line.close()
    return lines, names


def connected(offer: Offer, rank: int, name: str) -> Line:
    """Connect to a process that listens.

    Args:
        offer: where it listens.
        rank: index of this process.
        name: name of this process for messages.

    Raises:
        ProcessError: it cannot be reached.
    """
    reasons = []
    for host in offer.hosts:
        try:
            line = Line(socket.create_connection((host, offer.port), CONNECT / 2))
        except OSError as error:
            reasons.append(f"{host}:{offer.port}: {error}")
            continue
        line.keep()
        line.send(offer.token, rank, name)
        return line
    raise ProcessError(f"process 0 cannot be reached ({'; '.join(reasons)}); set MASTER_ADDR to its machine's address")
