"""`edakari bench`: times a folder of ONNX files on this machine, for an edakari on another one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import guarded, note

__all__ = ["bench"]


@guarded
def bench(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder with a manifest.json and ONNX files that edakari wrote.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Time what was timed before, too.")] = False,
    write_script: Annotated[
        Path | None,
        typer.Option(help="Write the command as one Python file, which needs onnxruntime and numpy alone, and stop."),
    ] = None,
) -> None:
    """Time the ONNX files of a folder; print the times as JSON, and store them in results.json."""
    if write_script is not None:
        from edakari.core.far_side import script_text
        from edakari.core.files import write_text

        write_text(write_script, script_text())
        note(f"Wrote {write_script}; copy it to the device and run: python3 {write_script.name} FOLDER")
        return
    if folder is None:
        raise typer.BadParameter("name a folder that edakari wrote, or give --write-script FILE")
    from edakari.core.far_side.bench import main
    from edakari.core.optional import require_packages

    require_packages("onnx", "timing ONNX files", "onnxruntime")
    raise typer.Exit(main([str(folder), *(["--again"] if again else [])]))
