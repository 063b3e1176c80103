"""`edakari explain tokens`: which patches go on at each selector."""

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
    """Draw images with the patches that each selector keeps, and how many each image keeps."""
    from rich.markup import escape

    from edakari.errors import RunFolderError
    from edakari.pipeline.folder import RunFolder
    from edakari.pipeline.load import networks, recipe_of
    from edakari.pipeline.token_view import token_view
    from edakari.report import write_report
    from edakari.report.explanation import FOLDER, keep, require_room
    from edakari.report.tokens import draw_tokens
    from edakari.surgery import load_plan
    from edakari.tasks import task_from_settings

    require_room(run)
    found, plan = networks(run, trust_code=trust), load_plan(run)
    if not plan.tokens():
        raise RunFolderError(
            f"{run} holds a network whose tokens are all there; `edakari prune` with spvit prunes some"
        )
    task = task_from_settings(recipe_of(RunFolder(run), trust_code=trust).data)
    explanation = draw_tokens(token_view(found.dense, found.pruned, plan, task, images=images), run)
    keep(explanation, run)
    page = write_report(run)
    show(explanation.text)
    for picture in explanation.pictures:
        show(f"{picture.title}: [bold]{escape(str((run / FOLDER / picture.file).resolve()))}[/]")
    show(f"Report: [bold]{escape(str(page.resolve()))}[/]")
