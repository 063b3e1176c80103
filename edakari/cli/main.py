"""The command line."""

from __future__ import annotations

from typing import Annotated

import typer

from edakari import __version__
from edakari.cli.commands.bench import bench
from edakari.cli.commands.compare import compare
from edakari.cli.commands.convert import convert
from edakari.cli.commands.demo import demo
from edakari.cli.commands.explain import explain
from edakari.cli.commands.export import export
from edakari.cli.commands.init import init
from edakari.cli.commands.inspect import inspect
from edakari.cli.commands.measure import measure
from edakari.cli.commands.methods import methods
from edakari.cli.commands.prune import prune
from edakari.cli.commands.push import push
from edakari.cli.commands.quantize import quantize
from edakari.cli.commands.report import report
from edakari.cli.commands.resume import resume
from edakari.cli.commands.sweep import sweep
from edakari.cli.commands.train import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="edakari",
    help="Prune a trained vision network down to a budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = (demo, init, inspect, prune, resume, sweep, compare, measure, bench, quantize, export, push, report)
for _command in (*_COMMANDS, methods, train, convert):
    app.command()(_command)
app.add_typer(explain, name="explain")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edakari {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Prune a trained vision network down to a budget."""


def main() -> None:
    """Entry point of the `edakari` command."""
    app()
