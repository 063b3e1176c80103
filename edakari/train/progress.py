"""The progress of trainings and searches: events for whoever listens, and a bar if a person looks at a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from edakari.core.optional import needs
from edakari.core.watching import Listener, Steps, drawn, listener, listening
from edakari.train.resume import Progress

__all__ = ["epoch_event", "progress_bar", "step_event"]

PLACES = frozenset({"title", "step", "steps", "epoch", "epochs", "seconds_left", "text"})


@contextlib.contextmanager
def progress_bar(title: str, steps: int, wanted: bool) -> Iterator[Steps]:
    """Context that gives what takes the steps of some work; see `edakari.core.watching`.

    Without anybody who shows them, the steps move a bar in the terminal, if there is one.

    Args:
        title: name of the work.
        steps: number of all steps.
        wanted: whether to report the steps.
    """
    reported = Steps(title, steps)
    if not wanted:
        with listening(lambda kind, event: None):
            yield reported
    elif drawn():
        yield reported
    else:
        with _bar(title, steps, listener()):
            yield reported


@contextlib.contextmanager
def _bar(title: str, steps: int, others: Listener | None) -> Iterator[None]:
    """Context with a bar in the terminal that also passes events on."""
    with needs("train", "a progress bar"):
        from rich import progress as bars
        from rich.console import Console
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(20),
        bars.TextColumn("{task.fields[text]}"),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(title, total=steps, text="")

        def draw(kind: str, event: Mapping[str, Any]) -> None:
            progress.update(bar, completed=event["step"], text=_text(event))
            if others is not None:
                others(kind, event)

        with listening(draw, draws=True):
            yield


def _text(event: Mapping[str, Any]) -> str:
    """An event in a few words."""
    epoch = f"epoch {event['epoch']}/{event['epochs']} " if "epochs" in event else f"{event['step']}/{event['steps']} "
    figures = [f"{name} {value:.4g}" for name, value in event.items() if name not in PLACES]
    return epoch + " ".join([*figures, str(event.get("text", ""))]).rstrip()


def step_event(progress: Progress, epoch: int, epochs: int, lr: float) -> dict[str, Any]:
    """Return the values of an event after a step of a training.

    Args:
        progress: progress of the training; its losses may lie on an accelerator.
        epoch: index of the epoch.
        epochs: number of epochs.
        lr: learning rate of the step.
    """
    judged = progress.epochs[-1] if progress.epochs else {}
    metrics = {name: value for name, value in judged.items() if name.startswith("val_")}
    loss = sum(float(value) for value in progress.means().values())
    return {"epoch": epoch + 1, "epochs": epochs, "loss": loss, **metrics, "lr": lr}


def epoch_event(progress: Progress, epochs: int) -> dict[str, Any]:
    """Return the values of an event after an epoch of a training.

    Args:
        progress: progress of the training.
        epochs: number of epochs.
    """
    return {**progress.epochs[-1], "epoch": len(progress.epochs), "epochs": epochs}
