"""`edakari compare`: compares finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import guarded, print_json, show

__all__ = ["compare"]


@guarded
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some, such as runs/*.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the table and the page; none is written without.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare finished runs: one row for each setting, over its seeds, with confidence intervals."""
    from rich.markup import escape

    from edakari.sweeps.comparing import compare as compare_runs
    from edakari.sweeps.writing import content_of

    found = compare_runs(runs, output)
    if as_json:
        print_json(content_of(found.results))
        return
    show(escape(repr(found)))
    if found.page is not None:
        show(f"\nPage: [bold]{escape(str(found.page.resolve()))}[/]")
