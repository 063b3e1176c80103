"""`edakari explain isp`: shows where a network looks before and after pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import Trust, guarded, print_json, show

__all__ = ["isp"]


@guarded
def isp(
    run: Annotated[Path, typer.Argument(help="Finished run folder that `edakari prune` made by the method isp.")],
    images: Annotated[int, typer.Option(min=1, help="Number of validation images.")] = 2048,
    columns: Annotated[int, typer.Option(min=1, max=20, help="Number of images drawn individually.")] = 10,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Draw where the dense and the pruned network look, side by side, and how far they agree."""
    from rich.markup import escape

    from edakari.pipeline.explained import run_saliency
    from edakari.report import write_report
    from edakari.report.explanation import FOLDER, require_room, write_explanation
    from edakari.report.saliency import draw_saliency, shares

    require_room(run)
    view = run_saliency(run, images, trust_code=trust)
    explanation = draw_saliency(view, run, columns)
    write_explanation(explanation, run)
    page = write_report(run)
    if as_json:
        print_json(shares(view))
        return
    show(explanation.text)
    for picture in explanation.pictures:
        show(f"{picture.title}: [bold]{escape(str((run / FOLDER / picture.file).resolve()))}[/]")
    show(f"Report: [bold]{escape(str(page.resolve()))}[/]")
