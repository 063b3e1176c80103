"""Exports the networks of a run, with what their users must know."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edakari.core.copying import copied
from edakari.export import EXPORTERS, ExportCheck
from edakari.pipeline.context import Run
from edakari.pipeline.deployment import Network, about_run, write_model
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.latency import batched
from edakari.results import ExportedFile, ExportResult

__all__ = ["export_networks", "export_stage"]


def export_stage(run: Run) -> ExportResult:
    """Export the dense and the finished network with the batch size of the latency, and compare their outputs."""
    folder = run.store.exported
    if not run.processes.main or folder is None or not run.settings.export:
        return ExportResult(files=())
    example, files = batched(run.task.example(), run.settings.batch), []
    for kind in run.settings.export:
        networks: dict[Network, nn.Module] = {"dense": run.dense, "pruned": run.network("finished")}
        checks = export_networks(RunFolder(folder.parent), networks, example, kind, folder)
        for name, check in checks.items():
            how = {key: value for key, value in dc.asdict(check).items() if key != "path"}
            files.append(ExportedFile(path=f"{folder.name}/{check.path.name}", network=name, **how))
    return ExportResult(files=tuple(files))


def export_networks(
    run: RunFolder,
    networks: Mapping[Network, nn.Module],
    example: Any,
    kind: str,
    folder: Path,
    *,
    dynamic_batch: bool = False,
) -> dict[Network, ExportCheck]:
    """Write networks of a run in one format, `model.json`, and `infer.py` where it can run one of them.

    Args:
        run: folder of the run.
        networks: networks by name; they do not change.
        example: an input.
        kind: name of the format.
        folder: folder of the files, which are named after the networks.
        dynamic_batch: whether the batch size is variable.

    Raises:
        ExportError: a network cannot be exported, or its outputs differ.
        MissingPackage: a package of the format is not installed.
        UnknownName: there is no such format.
    """
    exporter, checks = EXPORTERS.named(kind), dict[Network, ExportCheck]()
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in networks.items():
        path, about = folder / f"{name}.{exporter.suffix}", about_run(run, name)
        checks[name] = exporter(copied(model).cpu(), example, path, about=about, dynamic_batch=dynamic_batch)
    write_model(folder, about_run(run), checks)
    return checks
