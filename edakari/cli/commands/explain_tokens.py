"""`edakari explain tokens`: shows the patches that each selector keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import Trust, guarded, show

__all__ = ["tokens"]


@guarded
def tokens(
    run: Annotated[Path, typer.Argument(help="Finished run folder of a method that prunes tokens.")],
    images: Annotated[int, typer.Option(min=1, help="Validation images whose tokens are counted.")] = 512,
    trust: Trust = False,
) -> None:
    """Draw images with the patches that each selector keeps, and the number of kept patches per image."""
    from rich.markup import escape

    from edakari.pipeline.explained import run_tokens
    from edakari.report import write_report
    from edakari.report.explanation import FOLDER, require_room, write_explanation
    from edakari.report.tokens import draw_tokens

    require_room(run)
    explanation = draw_tokens(run_tokens(run, images, trust_code=trust), run)
    write_explanation(explanation, run)
    page = write_report(run)
    show(explanation.text)
    for picture in explanation.pictures:
        show(f"{picture.title}: [bold]{escape(str((run / FOLDER / picture.file).resolve()))}[/]")
    show(f"Report: [bold]{escape(str(page.resolve()))}[/]")
