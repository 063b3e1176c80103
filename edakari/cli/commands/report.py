"""`edakari report`: writes the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import guarded, note, print_json, show

__all__ = ["report"]


@guarded
def report(
    run: Annotated[Path, typer.Argument(help="Run folder that `edakari prune` made; it need not be finished.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and write nothing.")] = False,
) -> None:
    """Write report.html, report.json and report.png of a run from its results."""
    from rich.markup import escape

    from edakari.cli.tables import comparison
    from edakari.report import collect, write_report
    from edakari.report.formatting import dropped_line

    content = collect(run)
    if as_json:
        print_json(content)
        return
    page = write_report(run)
    if content["random_weights"]:
        which = "its accuracies" if content["from_scratch"] else "accuracies"
        note(f"[bold yellow]Random weights:[/] the dense network was not trained, so {which} are meaningless")
    show(comparison(content))
    if content["dropped"]:
        show(f"\nDropped branches and paths: {escape(dropped_line(content['dropped']))}")
    show(f"\nReport: [bold]{escape(str(page.resolve()))}[/]")
