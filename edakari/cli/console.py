"""Output and one-line errors, shared by all commands."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from edakari.core.files import json_text
from edakari.errors import EdakariError, EdakariWarning, ProcessError

__all__ = ["Trust", "guarded", "note", "print_json", "show", "width"]

P = ParamSpec("P")
R = TypeVar("R")
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the Python file that the run folder or recipe names: it can do anything.")
]


def show(renderable: Any) -> None:
    """Print a result."""
    if _main_process():
        Console().print(renderable, highlight=False, soft_wrap=isinstance(renderable, str | Text))


def width() -> int:
    """Return the line width: the terminal's, or enough for a table if the output goes elsewhere."""
    console = Console()
    return console.width if console.is_terminal else max(console.width, 100)


def note(text: str) -> None:
    """Print a note for the user to stderr, apart from the results."""
    if _main_process():
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Print a result as JSON."""
    if _main_process():
        sys.stdout.write(json_text(content, "the result", indent=2, ensure_ascii=False) + "\n")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end with one clear line for wrong input, a full disk or Ctrl-C.

    Exit codes: 1 for errors, 130 after Ctrl-C; `--debug` before the command's name lets the error through.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        shown = warnings.showwarning
        warnings.showwarning = functools.partial(_warned, shown)
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            # the earlier run has been removed by now, and to overwrite again would restart this one
            left_out = () if "train" in sys.argv else ("--overwrite",)
            again = shlex.join(["edakari", *(part for part in sys.argv[1:] if part not in left_out)])
            note(f"[yellow]Interrupted.[/] To continue, run the same command again: {escape(again)}")
            raise typer.Exit(130) from None
        except SystemExit as error:
            # from the user's code: the request is not done, whatever the exit code says
            if "--debug" in sys.argv:
                raise
            note(f"[bold red]Error:[/] [red]the network's own code ends the program (sys.exit({error.code!r}))[/]")
            raise typer.Exit(1) from None
        except (EdakariError, OSError) as error:
            # an operating system error without a file is a bug of edakari, so its traceback is shown
            if "--debug" in sys.argv or not (isinstance(error, EdakariError) or _of_a_file(error)):
                raise
            if not (isinstance(error, ProcessError) and error.told):
                note(f"[bold red]Error:[/] [red]{escape(_text(error))}[/]")
            raise typer.Exit(1) from None
        finally:
            warnings.showwarning = shown

    return run


def _warned(others: Callable[..., None], message: Warning | str, category: type[Warning], *rest: Any) -> None:
    """Show edakari's warnings as notes, without their line of code."""
    if issubclass(category, EdakariWarning):
        note(f"[yellow]Note:[/] {escape(str(message))}")
    else:
        others(message, category, *rest)


def _text(error: Exception) -> str:
    from edakari.core.file_errors import in_words

    return in_words(error) if isinstance(error, OSError) else str(error)


def _of_a_file(error: OSError) -> bool:
    from edakari.core.file_errors import disk_full

    return bool(error.filename) or disk_full(error)


def _main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
