"""Where the words of a command go: to a terminal, a pipe or a log file, as sentences or as JSON."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses as dc
import datetime
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from edakari.cli.layout import Grid, hanging
from edakari.core.file_errors import file_errors
from edakari.core.files import json_text

__all__ = ["LOGGING", "Level", "Output", "current", "is_main", "logged_as", "room"]

Level = Literal["error", "note", "progress", "detail"]
LEVELS: Mapping[Level, int] = {"error": 0, "note": 0, "progress": 1, "detail": 2}
"""Verbosity from which on a line is shown; a log file holds all."""

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results, notes and errors alone.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the steps of trainings and timings, too.")]
LogFile = Annotated[Path | None, typer.Option("--log-file", help="Append all that is said to this file, with times.")]
LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option("--log-format", help="Say it in sentences, or as one JSON object a line; results stay as they are."),
]
LOGGING: Mapping[str, tuple[Any, Any]] = {
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
    "log_file": (LogFile, None),
    "log_format": (LogFormat, "text"),
}
"""Options that all commands have: annotation and default by name."""


def is_main() -> bool:
    """Return whether this is the process that speaks."""
    return os.environ.get("RANK", "0") == "0"


def room(console: Console) -> int | None:
    """Return how many characters a line may have: a terminal's, or COLUMNS; None if there is no limit."""
    return console.width if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal() else None


@dc.dataclass
class Output:
    """Says lines; run state.

    Args:
        verbosity: 0 to 2; see `LEVELS`.
        form: "text" or "json".
        file: open log file; None if there is none.
        live: line at the bottom of a terminal that is drawn again and again; None if there is none.
        paused: whether that line waits for the next event, so that results are printed without it.
    """

    verbosity: int = 1
    form: Literal["text", "json"] = "text"
    file: IO[str] | None = None
    live: Live | None = None
    paused: bool = False

    def say(self, text: str | Text, level: Level, event: Mapping[str, Any] | None = None, indent: int = 0) -> None:
        """Say one line on stderr and in the log file.

        Args:
            text: the line, with rich's markup if it is a string.
            level: how much it matters.
            event: what it says as plain values, for JSON.
            indent: number of spaces before the parts of a line that is too long.
        """
        if not is_main():
            return
        line = Text.from_markup(text) if isinstance(text, str) else text
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        record = {"time": now, "level": level, **({"text": line.plain.strip()} if event is None else event)}
        if self.file is not None:
            as_json = json_text(record, "the log", ensure_ascii=False)
            self.file.write((as_json if self.form == "json" else f"{now} {line.plain.strip()}") + "\n")
            self.file.flush()
        if LEVELS[level] > self.verbosity:
            return
        if self.form == "json":
            sys.stderr.write(json_text(record, "the log", ensure_ascii=False) + "\n")
            return
        console = self.live.console if self.live is not None else Console(stderr=True)
        self._print(console, line, indent)

    def show(self, renderable: Any) -> None:
        """Print a result on stdout."""
        if not is_main():
            return
        self.clear()
        console = Console()
        wide = room(console)
        width = wide or max(console.width, 100)
        for part in renderable.parts(width) if isinstance(renderable, Grid) else (renderable,):
            if isinstance(part, str | Text):
                self._print(console, Text.from_markup(part) if isinstance(part, str) else part, 2)
            else:
                console.print(part, highlight=False, width=width, crop=False)

    def clear(self) -> None:
        """Remove the line at the bottom, until there is a next event."""
        self.paused = True
        if self.live is not None and self.live.is_started:
            self.live.stop()

    def _print(self, console: Console, text: Text, indent: int) -> None:
        width = room(console)
        lines = [text] if width is None else hanging(text, width, indent)
        console.print(Text("\n").join(lines), highlight=False, soft_wrap=True)


_CURRENT: contextvars.ContextVar[Output | None] = contextvars.ContextVar("edakari.output", default=None)


def current() -> Output:
    """Return the output of the command that runs, or one on stderr and stdout."""
    return _CURRENT.get() or Output()


@contextlib.contextmanager
def logged_as(
    *, quiet: bool, verbose: bool, log_file: Path | None, log_format: Literal["text", "json"]
) -> Iterator[Output]:
    """Context in which a command says what its options ask for."""
    with contextlib.ExitStack() as stack:
        file = None
        if log_file is not None and is_main():
            with file_errors(log_file):
                log_file.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(log_file.open("a", encoding="utf-8"))
        output = Output(0 if quiet else 2 if verbose else 1, log_format, file)
        token = _CURRENT.set(output)
        stack.callback(_CURRENT.reset, token)
        yield output
