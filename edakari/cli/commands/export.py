"""`edakari export`: writes a run's networks in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edakari.cli.console import Trust, guarded, show

__all__ = ["export"]


@guarded
def export(
    run: Annotated[Path, typer.Argument(help="Run folder that `edakari prune` made.")],
    to: Annotated[Literal["onnx", "program"], typer.Option(help="onnx, or program for torch.export.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to. Default: RUN/export.")
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Export the dense network, too.")] = False,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Make the batch size variable (onnx).")
    ] = False,
    trust: Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a run's pruned network in another format, and check that its outputs are the same."""
    from rich.markup import escape

    from edakari.core.file_errors import require_writable
    from edakari.errors import ExportError
    from edakari.export import to_onnx, to_program
    from edakari.pipeline.load import networks
    from edakari.report.formatting import size

    folder = output or run / "export"
    suffix = "onnx" if to == "onnx" else "pt2"
    paths = {name: folder / f"{name}.{suffix}" for name in (("dense", "pruned") if dense else ("pruned",))}
    for path in paths.values():
        if path.exists() and not overwrite:
            raise ExportError(f"{path} already exists; choose another folder with --output, or pass --overwrite")
    if dynamic_batch and to != "onnx":
        raise ExportError("--dynamic-batch works only with --to onnx")
    for path in paths.values():
        require_writable(path)
    found = networks(run, trust_code=trust)
    for name, path in paths.items():
        model = found.dense if name == "dense" else found.pruned
        if to == "onnx":
            check = to_onnx(model, found.example, path, dynamic_batch=dynamic_batch)
        else:
            check = to_program(model, found.example, path)
        show(
            f"{escape(str(path))}: {size(check.bytes)}, outputs within {check.absolute:.1e} of the module's "
            f"({check.relative:.1e} of the largest)"
        )
