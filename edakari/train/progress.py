"""A progress bar with the remaining time, if there is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from edakari.core.optional import needs

__all__ = ["progress_bar"]

Advance = Callable[[int, str], None]


@contextlib.contextmanager
def progress_bar(title: str, steps: int, wanted: bool) -> Iterator[Advance]:
    """Context that gives a function to move the bar to a step and show a text; without a terminal it does nothing.

    Args:
        title: text before the bar.
        steps: number of steps of the complete training.
        wanted: whether to show a bar.
    """
    if not wanted:
        yield lambda step, text: None
        return
    with needs("train", "a progress bar"):
        from rich import progress as bars
        from rich.console import Console
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step, text: None
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[text]}"),
        bars.TimeElapsedColumn(),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(title, total=steps, text="")
        yield lambda step, text: progress.update(bar, completed=step, text=text)
