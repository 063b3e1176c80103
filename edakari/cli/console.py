"""Output and one-line errors, shared by all commands."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import shlex
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from edakari.cli.output import LOGGING, current, is_main, logged_as, room
from edakari.cli.watching import Watcher, watching
from edakari.core.files import json_text
from edakari.errors import EdakariError, EdakariWarning, ProcessError

__all__ = ["ReportTo", "Trust", "guarded", "note", "print_json", "show", "watcher", "width"]

P = ParamSpec("P")
R = TypeVar("R")
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the Python file that the run folder or recipe names: it can do anything.")
]

ReportTo = Annotated[
    list[str] | None,
    typer.Option("--report-to", help="Tracker: csv, tensorboard, wandb, mlflow, or a plug-in's; may be repeated."),
]
_WATCHER: contextvars.ContextVar[Watcher | None] = contextvars.ContextVar("edakari.watcher", default=None)


def show(renderable: Any) -> None:
    """Print a result."""
    current().show(renderable)


def width() -> int:
    """Return the line width: the terminal's, or enough for a table if the output goes elsewhere."""
    console = Console()
    return room(console) or max(console.width, 100)


def note(text: str) -> None:
    """Print a note for the user to stderr, apart from the results."""
    current().say(text, "note")


def watcher() -> Watcher:
    """Return what watches the work of the command that runs."""
    found = _WATCHER.get()
    return found if found is not None else Watcher(current(), "")


def print_json(content: Mapping[str, Any]) -> None:
    """Print a result as JSON."""
    if is_main():
        current().clear()
        sys.stdout.write(json_text(content, "the result", indent=2, ensure_ascii=False) + "\n")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end with one clear line for wrong input, a full disk or Ctrl-C, and watch its work.

    The command gets the options of `edakari.cli.output.LOGGING`. Exit codes: 1 for errors, 130 after Ctrl-C; `--debug`
    before the command's name lets the error through.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> R:
        options = {name: kwargs.pop(name, default) for name, (_, default) in LOGGING.items()}
        with contextlib.ExitStack() as stack, _failing_clearly():
            output = stack.enter_context(logged_as(**options))
            token = _WATCHER.set(stack.enter_context(watching(output, command.__name__)))
            stack.callback(_WATCHER.reset, token)
            return command(*args, **kwargs)

    # resolved here, as the new ones are no texts like those of the module
    hints = typing.get_type_hints(command, include_extras=True)
    asked = [each.replace(annotation=hints[each.name]) for each in inspect.signature(command).parameters.values()]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in LOGGING.items()
    ]
    run.__signature__ = inspect.Signature([*asked, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*asked, *added)}
    return run


@contextlib.contextmanager
def _failing_clearly() -> Iterator[None]:
    """Context that turns errors into one line and an exit code."""
    shown = warnings.showwarning
    warnings.showwarning = functools.partial(_warned, shown)
    try:
        yield
    except KeyboardInterrupt:
        # the earlier run has been removed by now, and to overwrite again would restart this one
        left_out = () if "train" in sys.argv else ("--overwrite",)
        again = shlex.join(["edakari", *(part for part in sys.argv[1:] if part not in left_out)])
        note(f"[yellow]Interrupted.[/] To continue, run the same command again: {escape(again)}")
        raise typer.Exit(130) from None
    except SystemExit as error:
        # from the user's code: the request is not done, whatever the exit code says. Or from rich, as nobody reads on
        if "--debug" in sys.argv or isinstance(error.__context__, BrokenPipeError):
            raise
        _fail(f"the network's own code ends the program (sys.exit({error.code!r}))")
    except (EdakariError, OSError) as error:
        # an operating system error without a file is a bug of edakari, so its traceback is shown
        if "--debug" in sys.argv or not (isinstance(error, EdakariError) or _of_a_file(error)):
            raise
        if not (isinstance(error, ProcessError) and error.told):
            _fail(_text(error))
        raise typer.Exit(1) from None
    finally:
        warnings.showwarning = shown


def _fail(text: str) -> NoReturn:
    current().say(f"[bold red]Error:[/] [red]{escape(text)}[/]", "error")
    raise typer.Exit(1) from None


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
