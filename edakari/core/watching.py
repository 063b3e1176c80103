"""Progress of long work: who does it reports its steps, and who watches receives them.

Work is nested, and a training may run inside of a method inside of a run. So steps go to the innermost listener of the
context, as log records go to handlers, and no function in between passes anything on:

    with listening(print):
        steps = Steps("table", 120)
        for done in range(120):
            steps.at(done + 1)
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses as dc
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["Figures", "Listener", "Steps", "drawn", "listener", "listening"]

Listener = Callable[[str, Mapping[str, Any]], None]
"""Callback that takes the kind of an event, "step" or "epoch", and its values by name; see `Steps`."""
Figures = Callable[[], Mapping[str, Any]]
"""Function that computes the values of an event; called only if one is due, as a figure may lie on an accelerator."""

PAUSE = 1.0
"""Least number of seconds between two reports of steps."""


@dc.dataclass(frozen=True)
class _Ear:
    listener: Listener
    drawn: bool


_EAR: contextvars.ContextVar[_Ear | None] = contextvars.ContextVar("edakari.listener", default=None)


@contextlib.contextmanager
def listening(listener: Listener, *, draws: bool = False) -> Iterator[None]:
    """Context in which events go to a listener instead of to an outer one.

    Args:
        listener: callback for events.
        draws: whether a person sees the events; if not, the answer of the outer listener holds.
    """
    token = _EAR.set(_Ear(listener, draws or drawn()))
    try:
        yield
    finally:
        _EAR.reset(token)


def listener() -> Listener | None:
    """Return the innermost listener of this context; None if nobody listens."""
    ear = _EAR.get()
    return None if ear is None else ear.listener


def drawn() -> bool:
    """Return whether a person sees the events already."""
    ear = _EAR.get()
    return ear is not None and ear.drawn


@dc.dataclass
class Steps:
    """Reports the steps of one piece of work to the listener; run state.

    An event holds "title", "step" and "steps"; "seconds_left" from the second report on; and the figures. Those of a
    training have "epoch" and "epochs", "loss", "lr", and "val_…" for the metrics of the last evaluation.

    Args:
        title: what is done.
        whole: number of steps.
        clock: function that returns a time, s.
        first: step and time of the first report, from which the pace is known.
        told: time of the last report.
    """

    title: str
    whole: int
    clock: Callable[[], float] = time.monotonic
    first: tuple[int, float] | None = None
    told: float = float("-inf")

    def at(self, step: int, figures: Figures = dict) -> None:
        """Report that so many steps are done; a report that follows another one at once is left out."""
        if listener() is None:
            return
        now = self.clock()
        if self.first is None:
            self.first = (step, now)
        elif now - self.told < PAUSE and step < self.whole:
            return
        self.told = now
        self._send("step", step, figures())

    def epoch(self, step: int, figures: Mapping[str, float]) -> None:
        """Report that an epoch of a training has ended.

        Args:
            step: number of finished steps.
            figures: metrics of the epoch.
        """
        self.told = self.clock()
        self._send("epoch", step, figures)

    def left(self, step: int) -> float | None:
        """Estimate how many seconds the other steps take at the pace so far; None if there is no pace yet."""
        if self.first is None or step <= self.first[0]:
            return None
        done, since = self.first
        return (self.clock() - since) / (step - done) * (self.whole - step)

    def _send(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        listen = listener()
        if listen is None:
            return
        left = self.left(step)
        event = {"title": self.title, "step": step, "steps": self.whole, **figures}
        listen(kind, event if left is None else {**event, "seconds_left": round(left, 1)})
