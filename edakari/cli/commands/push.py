"""`edakari push`: uploads a run's pruned network to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import guarded, show

__all__ = ["push"]


@guarded
def push(
    run: Annotated[Path, typer.Argument(help="Run folder that `edakari prune` made.")],
    repo: Annotated[str, typer.Argument(help="Repository on the Hub, USER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the repository's files to this new folder, and upload nothing."),
    ] = None,
) -> None:
    """Upload a run's pruned network with a model card, config.json and the exported files."""
    from rich.markup import escape

    from edakari.errors import RunFolderError
    from edakari.pipeline import hub

    if output is None:
        show(f"Pushed: {escape(hub.push(run, repo, private=private))}")
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunFolderError(f"{output} exists and is not empty; name another folder with --output")
    hub.hub_files(run, repo, output)
    show(f"Written, not uploaded: {escape(str(output))}")
