"""`edakari export`: writes a run's networks in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.console import Trust, guarded, show

__all__ = ["export"]


@guarded
def export(
    run: Annotated[Path, typer.Argument(help="Run folder that `edakari prune` made.")],
    to: Annotated[
        str,
        typer.Option(
            help="Format: onnx, openvino, program (torch.export), executorch, coreml, litert, or a plug-in's."
        ),
    ] = "onnx",
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
    """Write a run's pruned network in another format, check its outputs, and say in model.json how it is used."""
    from rich.markup import escape
    from torch import nn

    from edakari.core.file_errors import require_writable
    from edakari.errors import ExportError
    from edakari.export import EXPORTERS
    from edakari.pipeline.deployment import MODEL, Network, check_replaceable
    from edakari.pipeline.exporting import export_networks
    from edakari.pipeline.folder import RunFolder
    from edakari.pipeline.load import networks
    from edakari.report.formatting import size

    folder, exporter = output or run / "export", EXPORTERS.named(to)
    if dynamic_batch and "dynamic_batch" not in exporter.options:
        raise ExportError(f"--dynamic-batch works with --to onnx and --to openvino, found --to {to}")
    exporter.require()
    for name in ("dense", "pruned") if dense else ("pruned",):
        path = folder / f"{name}.{exporter.suffix}"
        if path.exists() and not overwrite:
            raise ExportError(f"{path} already exists; choose another folder with --output, or pass --overwrite")
        require_writable(path)
    check_replaceable(folder)
    require_writable(folder / MODEL)
    found = networks(run, trust_code=trust)
    asked: dict[Network, nn.Module] = {"dense": found.dense} if dense else {}
    asked["pruned"] = found.pruned
    for check in export_networks(
        RunFolder(run), asked, found.example, to, folder, dynamic_batch=dynamic_batch
    ).values():
        compared = "not compared, for nothing here runs it"
        if check.absolute is not None:
            compared = f"outputs within {check.absolute:.2g} of the module's ({check.relative:.2g} of the largest)"
        show(f"{escape(str(check.path))}: {size(check.bytes)}, {compared}")
