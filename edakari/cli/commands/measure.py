"""`edakari measure`: latency of a run's networks."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import guarded, print_json, show

__all__ = ["measure"]


@guarded
def measure(
    run: Annotated[Path, typer.Argument(help="Run folder that `edakari prune` made.")],
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="torch or onnxruntime; may be given again. Both if not given.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves the runtime's own choice.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Calls that are timed.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Time the dense and the pruned network of a run in turns, here and now; the run's report stays as it is."""
    from edakari.cli.tables import timings_table
    from edakari.cost.runtimes import RUNTIMES, runtime_named
    from edakari.run.load import networks
    from edakari.run.settings import MeasureSettings
    from edakari.run.stages import time_networks

    settings = MeasureSettings(runtimes=tuple(runtime or RUNTIMES), batch=batch, threads=threads, repeats=repeats)
    for name in settings.runtimes:
        runtime_named(name)
    found = networks(run)
    runtimes = time_networks(found.dense, found.pruned, found.example, settings)
    if as_json:
        print_json({"run": str(run), **dc.asdict(settings), "runtimes": runtimes})
    else:
        show(timings_table(runtimes))
