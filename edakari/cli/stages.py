"""What a command says of the stages of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from edakari.cli.watching import Watcher
from edakari.report.log_figures import figures_text

if TYPE_CHECKING:
    from edakari.pipeline.context import Notify

__all__ = ["telling"]

NAMES = 9
"""Characters of the longest name of a stage and a space."""


def telling(watcher: Watcher) -> Notify:
    """Return the callback of a run that says what its stages do.

    Args:
        watcher: what watches the command.
    """
    from edakari.cli.tables import skipped, stage_line

    def tell(stage: str, state: str, found: Any) -> None:
        if state == "start":
            watcher.enter(stage)
            watcher.output.say(f"[dim]… {stage}[/]", "detail", {"stage": stage, "event": state})
        elif state in ("step", "epoch"):
            watcher.heard(state, found)
        elif state == "log":
            figures = {name: value for name, value in found.items() if name != "stage"}
            rest = f": {figures_text(figures)}" if figures else ""
            event = {"event": state, "text": found["stage"], **figures}
            watcher.say(f"[dim]  {escape(found['stage'] + rest)}[/]", event)
        else:
            watcher.stage = stage
            event = {"event": "skipped" if skipped(found) else state, "seconds": found.seconds}
            watcher.say(_line(stage, state, found), event, indent=NAMES + 2)

    def _line(stage: str, state: str, found: Any) -> str:
        if skipped(found):
            return f"[dim]– {stage:<{NAMES}}skipped: the recipe does not ask for it[/]"
        text = escape(stage_line(found))
        if state == "kept":
            return f"[dim]✓ {stage:<{NAMES}}{text} (done before)[/]"
        return f"[green]✓[/] {stage:<{NAMES}}{text} [dim]{found.seconds:.1f} s[/]"

    return tell
