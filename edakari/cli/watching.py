"""What a command says while it works: stages, epochs, and in a terminal a line that never stands still."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from edakari.cli.output import Output, is_main, room
from edakari.core.watching import listening
from edakari.report.log_figures import clock_time, figures_text

__all__ = ["Watcher", "watching"]

EVERY = 60.0
"""Seconds after which a line follows the last one, where there is no terminal."""
DETAIL = 10.0
"""Least number of seconds between two lines of steps in a log file or after -v."""
QUICK = 1.0
"""Seconds without a line at the bottom; a command that ends earlier needs none."""
BAR = 24
"""Largest number of characters of a bar."""
METRICS = 2
"""Number of metrics in a line about a training."""
NOT_FIGURES = frozenset({"title", "step", "steps", "epoch", "epochs", "seconds_left", "text"})


@dc.dataclass
class Watcher:
    """Says what happens in a command; run state.

    Args:
        output: receives what is said.
        stage: what runs now, such as the name of a stage.
        clock: function that returns a time, s.
    """

    output: Output
    stage: str
    clock: Callable[[], float] = time.monotonic
    begun: float = 0.0
    said: float = 0.0
    detailed: float = 0.0
    event: Mapping[str, Any] = dc.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begun = self.said = self.clock()
        self.detailed = float("-inf")

    def enter(self, stage: str) -> None:
        """Begin another stage."""
        self.stage, self.event, self.output.paused = stage, {}, False
        self.begun = self.said = self.clock()
        self.draw()

    def say(self, text: str, event: Mapping[str, Any], indent: int = 4) -> None:
        """Say a line about the progress.

        Args:
            text: the line, with rich's markup.
            event: what it says as plain values.
            indent: number of spaces before the parts of a line that is too long.
        """
        self.said = self.clock()
        self.output.say(text, "progress", {"stage": self.stage, **event}, indent)

    def heard(self, kind: str, event: Mapping[str, Any]) -> None:
        """Take an event of `edakari.core.watching`."""
        self.event, self.output.paused = event, False
        if kind == "epoch":
            self.say(f"[dim]  {escape(_epoch(event))}[/]", {"event": kind, **event})
        elif self.clock() - self.detailed >= DETAIL:
            self.detailed = self.clock()
            text = f"[dim]  {escape(', '.join(self._parts()))}[/]"
            self.output.say(text, "detail", {"stage": self.stage, "event": kind, **event}, 4)
        self.draw()

    def beat(self) -> None:
        """Say something if nothing was said for a minute; called again and again where there is no terminal."""
        if self.clock() - self.said >= EVERY:
            event = {"event": "working", "seconds": round(self.clock() - self.begun, 1), **self.event}
            self.say(f"[dim]  {escape(', '.join(self._parts()))}[/]", event)

    def draw(self) -> None:
        """Draw the line at the bottom, if there is a terminal."""
        live = self.output.live
        if live is not None and live.is_started:
            live.refresh()
        elif live is not None and not self.output.paused and self.clock() - self.begun >= QUICK:
            live.start()

    def line(self, width: int) -> Text:
        """Return the line at the bottom: the stage, a bar, and as many figures as a line has room for.

        Args:
            width: characters in a line.
        """
        parts = self._parts()
        while len(parts) > 2 and cell_len("  ".join(parts)) > width:
            del parts[-2]  # the time stays
        text = "  ".join(parts)
        if cell_len(text) > width:
            text = f"{self.stage[: max(width - 12, 4)]}  {self._elapsed()}"
        left = min(width - cell_len(text) - 2, BAR)
        done = self.event.get("step", 0) / max(self.event.get("steps", 0), 1)
        if not self.event.get("steps") or left < 4:
            return Text(text, "dim", no_wrap=True, overflow="ignore")
        head, _, rest = text.partition("  ")
        filled = round(left * min(done, 1.0))
        bar = Text("━" * filled, "green").append("━" * (left - filled), "dim")
        return Text.assemble((f"{head}  ", "dim"), bar, (f"  {rest}", "dim"), no_wrap=True, overflow="ignore")

    def _elapsed(self) -> str:
        return clock_time(self.clock() - self.begun)

    def _parts(self) -> list[str]:
        """What is known of the work, the most important first; the time comes last."""
        event, title = self.event, self.event.get("title", self.stage)
        parts = [self.stage if title == self.stage else f"{self.stage}: {title}"]
        if "epochs" in event:
            parts.append(f"epoch {event['epoch']}/{event['epochs']}")
        elif event:
            parts.append(f"{event['step']} of {event['steps']}")
        parts += [figures_text({name: value}) for name, value in _shown(event).items()]
        if event.get("text"):
            parts.append(str(event["text"]))
        left = event.get("seconds_left")
        parts.append(self._elapsed() + (f", {clock_time(left)} left" if left is not None else ""))
        return parts


def _epoch(event: Mapping[str, Any]) -> str:
    """A line about the end of an epoch."""
    left = event.get("seconds_left")
    after = f", {clock_time(left)} left" if left and event["epoch"] < event["epochs"] else ""
    return f"epoch {event['epoch']}/{event['epochs']}: {figures_text(_shown(event))}{after}"


def _shown(event: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an event that a line shows: of a training, its loss, its first metrics and the learning rate."""
    figures = {name: value for name, value in event.items() if name not in NOT_FIGURES}
    if "epochs" not in event:
        return figures
    judged = [name for name in figures if name.startswith("val_")]
    metrics = [name for name in judged if name != "val_loss"][:METRICS] or judged
    return {name: figures[name] for name in ("loss", *metrics, "lr") if name in figures}


@contextlib.contextmanager
def watching(output: Output, command: str) -> Iterator[Watcher]:
    """Context in which a command's work is watched: by a line at the bottom of a terminal, or by a line a minute.

    Args:
        output: receives what is said.
        command: name of the command.
    """
    watcher = Watcher(output, command)
    if not is_main() or (output.verbosity == 0 and output.file is None):
        yield watcher
        return
    console, ended = Console(stderr=True), threading.Event()
    drawn = console.is_terminal and output.form == "text" and output.verbosity > 0
    if drawn:
        output.live = Live(
            get_renderable=lambda: watcher.line((room(console) or 80) - 1),
            console=console,
            refresh_per_second=1,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def beat() -> None:
        while not ended.wait(0.5):
            watcher.draw() if drawn else watcher.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        with listening(watcher.heard, draws=drawn):
            yield watcher
    finally:
        ended.set()
        thread.join()
        output.clear()
        output.live = None
