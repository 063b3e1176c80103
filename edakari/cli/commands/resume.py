"""`edakari resume`: continues an interrupted run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.commands.prune import own_recipe, run_recipe, with_trackers
from edakari.cli.console import ReportTo, Trust, guarded

__all__ = ["resume"]


@guarded
def resume(
    run: Annotated[Path, typer.Argument(help="Run folder of `edakari prune` or `edakari demo`.")],
    trust: Trust = False,
    report_to: ReportTo = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Continue an interrupted run from its folder alone, with the settings with which it was started."""
    from edakari.errors import RunFolderError
    from edakari.pipeline.folder import RECIPE, is_run

    if not is_run(run):
        raise RunFolderError(
            f"{run} is no run folder. Name one that `edakari prune` made; an interrupted `edakari train` continues by "
            "the same command"
        )
    run_recipe(own_recipe(run / RECIPE, with_trackers(None, report_to), trust), run, overwrite=False, as_json=as_json)
