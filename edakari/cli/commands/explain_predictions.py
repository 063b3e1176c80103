"""`edakari explain predictions`: shows what the dense and the pruned network find in images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import Trust, guarded, show

__all__ = ["predictions"]


@guarded
def predictions(
    run: Annotated[Path, typer.Argument(help="Finished run folder that `edakari prune` made, by any method.")],
    images: Annotated[int, typer.Option(min=1, max=50, help="Number of validation images.")] = 6,
    trust: Trust = False,
) -> None:
    """Draw validation images with their annotations and with what the dense and the pruned network find."""
    from rich.markup import escape

    from edakari.pipeline.explained import run_predictions
    from edakari.report import write_report
    from edakari.report.explanation import FOLDER, require_room, write_explanation
    from edakari.report.predictions import draw_predictions

    require_room(run)
    explanation = draw_predictions(run_predictions(run, images, trust_code=trust), run)
    write_explanation(explanation, run)
    page = write_report(run)
    show(explanation.text)
    for picture in explanation.pictures:
        show(f"{picture.title}: [bold]{escape(str((run / FOLDER / picture.file).resolve()))}[/]")
    show(f"Report: [bold]{escape(str(page.resolve()))}[/]")
