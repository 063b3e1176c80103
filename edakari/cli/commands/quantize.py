"""`edakari quantize`: quantises the networks of a run to int8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import Trust, guarded, print_json, show

__all__ = ["quantize"]


@guarded
def quantize(
    run: Annotated[Path, typer.Argument(help="Finished run folder that `edakari prune` made.")],
    images: Annotated[int, typer.Option(min=1, help="Largest number of calibration images.")] = 256,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Module that stays in fp32, or a pattern such as head*; may be repeated."),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", min=0.0, help="Largest accepted loss of the main metric.")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Quantise a run's pruned network to int8, and compare accuracy and latency of both networks in fp32 and int8."""
    import dataclasses as dc

    from rich.markup import escape

    from edakari.cli.tables import int8_table
    from edakari.export.int8 import QuantizeSettings
    from edakari.pipeline.quantizing import quantize_run
    from edakari.report import write_report

    settings = QuantizeSettings(images=images, exclude=tuple(exclude or ()), max_drop=max_drop)
    found = quantize_run(run, settings, trust_code=trust)
    page = write_report(run)
    if as_json:
        print_json(dc.asdict(found))
        return
    show(int8_table(dc.asdict(found)))
    show(f"Network in int8: [bold]{escape(str((run / found.file).resolve()))}[/]")
    show(f"Report: [bold]{escape(str(page.resolve()))}[/]")
