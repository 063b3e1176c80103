"""`edakari explain rfc`: shows what the filters of a network respond to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edakari.cli.console import Trust, guarded, show

__all__ = ["rfc"]


@guarded
def rfc(
    run: Annotated[Path, typer.Argument(help="Run folder that `edakari prune` made, by any method.")],
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", help="Layer to draw, or a pattern such as blocks.3.*; may be repeated."),
    ] = None,
    filters: Annotated[int, typer.Option(min=2, help="Filters per layer, best and worst.")] = 8,
    crops: Annotated[int, typer.Option(min=1, max=20, help="Images per filter.")] = 8,
    images: Annotated[int, typer.Option(min=2, help="Largest number of training images.")] = 12800,
    top: Annotated[
        float, typer.Option(min=0.0, help="Number of strongest images per filter; below 1, a fraction.")
    ] = 0.05,
    labels: Annotated[
        Literal["data", "predicted"], typer.Option(help="Labels of the data, or the network's predictions.")
    ] = "data",
    trust: Trust = False,
) -> None:
    """Draw filters from most to least discriminative, with their strongest images and the classes of these."""
    from rich.markup import escape

    from edakari.explain.filters import Choice
    from edakari.pipeline.explained import run_filters
    from edakari.report import write_report
    from edakari.report.explanation import FOLDER, require_room, write_explanation
    from edakari.report.filters import draw_filters

    require_room(run)
    choice = Choice(
        layers=tuple(layer or ()),
        filters=filters,
        crops=crops,
        images=images,
        top=int(top) if top >= 1 else top,
        labels=labels,
    )
    explanation = draw_filters(run_filters(run, choice, trust_code=trust), run)
    write_explanation(explanation, run)
    page = write_report(run)
    show(explanation.text)
    for picture in explanation.pictures:
        show(f"{picture.title}: [bold]{escape(str((run / FOLDER / picture.file).resolve()))}[/]")
    show(f"Report: [bold]{escape(str(page.resolve()))}[/]")
