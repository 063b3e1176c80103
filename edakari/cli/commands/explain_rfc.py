"""`edakari explain rfc`: what the filters of a network tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import guarded, show

__all__ = ["rfc"]


@guarded
def rfc(
    run: Annotated[Path, typer.Argument(help="Run folder that `edakari prune` made, by any method.")],
) -> None:
    """Draw filters from most to least discriminative, with the images that excite them and their classes."""
    from rich.markup import escape

    from edakari.report import write_report

    show(f"Report: [bold]{escape(str(write_report(run).resolve()))}[/]")
