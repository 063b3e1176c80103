"""Collects the results of a run from its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.core.optional import needs
from edakari.core.reading import because, inside, read_json, read_text
from edakari.core.reading_yaml import YAML_BYTES, parse_yaml
from edakari.errors import RunFolderError
from edakari.report.artifacts import read_artifact
from edakari.report.content import Content, gathered, method_label
from edakari.report.explanation import explanations
from edakari.report.stage_files import read_results
from edakari.report.sweep_runs import sweep_runs
from edakari.report.tickets import ticket_events

if TYPE_CHECKING:
    from edakari.results import Results  # what the command line shows at once must not wait for torch

with needs("report", "a report"):
    import yaml

__all__ = ["collect"]


@file_errors()
def collect(folder: str | Path) -> Content:
    """Collect all results of a run, finished or not, as plain values.

    Args:
        folder: run folder.

    Returns:
        The content of `report.json`. `networks` holds the results of the dense, the pruned and the fine-tuned network,
        each with `metrics`, `costs`, `bytes` and `latency` in ms by runtime. `latencies` holds each latency of the
        budget by its name.

    Raises:
        RunFolderError: the folder is no run folder, no stage is finished, or a file is damaged.
    """
    require("collect(folder)", folder=(folder, (str, Path)))
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise RunFolderError(f"{folder} is no run folder: it has no recipe.yaml. `edakari prune` makes one.")
    results = read_results(folder)
    _check_metrics(folder, results)
    environment = folder / "environment.json"
    return {
        **gathered(results, _recipe(folder)),
        "explanations": explanations(folder),
        "ticket": ticket_events(folder),
        "sensitivity": read_artifact(folder, "scores") or [],
        "sweep": sweep_runs(folder),
        "environment": _read(folder, environment) if os.path.lexists(environment) else {},
    }


def _check_metrics(folder: Path, results: Results) -> None:
    """Refuse files that hold another metric than the others."""
    metric = results.dense.metric if results.dense else ""
    for judged in (results.check, results.finetune):
        if metric and judged and metric not in judged.metrics:
            path = folder / "stages" / f"{judged.stage}.json"
            raise RunFolderError(f"{path} has no {metric!r}, by which the run judges; remove it to run its stage again")


def _recipe(folder: Path) -> Content:
    path = folder / "recipe.yaml"
    try:
        content, _ = parse_yaml(read_text(inside(folder, path.name), YAML_BYTES))
        names = content["model"]["name"], method_label(content["method"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise RunFolderError(f"{path} is not the recipe of a run: {because(error)}") from error
    if not all(isinstance(name, str) for name in names):
        raise RunFolderError(f"{path} is not the recipe of a run: model and method have the names {names}")
    found: Content = content
    return found


def _read(folder: Path, path: Path) -> Content:
    try:
        content: Content = read_json(inside(folder, path.relative_to(folder)))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {because(error)}; remove it to run its stage again") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} holds a {type(content).__name__}, not a mapping; was it edited?")
    return content
