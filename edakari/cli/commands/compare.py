"""`edakari compare`: compares finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.comparison import show_comparison
from edakari.cli.console import guarded

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
    from edakari.sweeps.comparing import compare as compare_runs

    show_comparison(compare_runs(runs, output), as_json=as_json)
