"""A bar with the time that is left, where someone looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from edakari.core.optional import needs

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
