"""A bar with the time that is left, where someone looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["progress_bar"]

Advance = Callable[[int, str], None]


@contextlib.contextmanager
def progress_bar(title: str, steps: int, wanted: bool) -> Iterator[Advance]:
    """A function that moves the bar to a step and shows a text; it does nothing where there is no terminal.

    Args:
        title: stands before the bar.
        steps: of the whole training.
        wanted: False draws none.
    """
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield lambda step, text: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(title, total=steps, text="")
        yield lambda step, text: progress.update(bar, completed=step, text=text)
