"""Collects the results of a run from its folder."""

from __future__ import annotations

import dataclasses as dc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.core.reading import because, inside, read_json, read_text
from edakari.core.reading_yaml import YAML_BYTES, parse_yaml
from edakari.errors import RunFolderError
from edakari.report.explanation import explanations
from edakari.report.stage_files import read_results

if TYPE_CHECKING:
    # output that the command line shows at once must not wait for torch
    from edakari.latency.timing import Timing
    from edakari.results import CheckResult, DenseResult, FinetuneResult, Results, TracedGroup, TraceResult

    Judged = DenseResult | CheckResult | FinetuneResult

__all__ = ["collect", "gathered"]

Content = dict[str, Any]


@file_errors()
def collect(folder: str | Path) -> Content:
    """Collect all results of a run, finished or not, as plain values.

    Args:
        folder: run folder.

    Returns:
        The content of `report.json`. `networks` holds the results of the dense, the pruned and the fine-tuned network,
        each with `metrics`, `costs`, `bytes` and `latency` in ms by runtime. `latency` is None without a latency in the
        budget.

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
        "environment": _read(folder, environment) if os.path.lexists(environment) else {},
    }


def gathered(results: Results, recipe: Mapping[str, Any]) -> Content:
    """Make the content of `report.json`, for a run in a folder or in memory.

    Args:
        results: results of the stages so far.
        recipe: recipe of the run, as plain values.
    """
    traced, pruned = results.trace, results.prune
    measured = results.measure
    return {
        "version": 1,
        "model": recipe["model"]["name"],
        "random_weights": recipe["model"].get("weights") == "random",
        "method": method_label(recipe["method"]),
        "paper": pruned.paper if pruned else "",
        "budget": traced.budget,
        "limits": dict(results.latency.limits) if results.latency else {},
        "finished": results.export is not None,
        "metric": (results.dense.metric or None) if results.dense else None,
        "networks": _networks(results),
        "as_cut": dict(pruned.as_cut) if pruned and pruned.as_cut is not None else None,
        "measured": {"batch": measured and measured.batch, "threads": measured and measured.threads},
        "latency": _latency(results),
        "groups": _groups(traced.groups, pruned.sizes if pruned else {}),
        "tokens": [dc.asdict(each) for each in pruned.tokens] if pruned else [],
        "unprunable": [dc.asdict(each) for each in traced.unprunable],
        "uncounted": dict(traced.uncounted),
        "difference": results.check.difference if results.check else None,
        "log": [dict(entry) for entry in pruned.log] if pruned else [],
        "epochs": [dict(epoch) for epoch in results.finetune.epochs] if results.finetune else [],
        "export": [dc.asdict(file) for file in results.export.files] if results.export else [],
        "explanations": [],
        "seconds": {name: stage.seconds for name, stage in vars(results).items() if stage},
        "recipe": dict(recipe),
        "environment": {},
    }


def _check_metrics(folder: Path, results: Results) -> None:
    """Refuse files that hold another metric than the others."""
    metric = results.dense.metric if results.dense else ""
    for judged in (results.check, results.finetune):
        if metric and judged and metric not in judged.metrics:
            path = folder / "stages" / f"{judged.stage}.json"
            raise RunFolderError(f"{path} has no {metric!r}, by which the run judges; remove it to run its stage again")


def _networks(results: Results) -> list[Content]:
    runtimes = results.measure.runtimes if results.measure else {}
    known: tuple[tuple[str, TraceResult | CheckResult | None, Judged | None, str], ...] = (
        ("dense", results.trace, results.dense, "dense"),
        ("pruned", results.check, results.check, ""),
        ("fine-tuned", results.check, results.finetune, "pruned"),
    )
    return [
        {
            "name": name,
            "metrics": dict(judged.metrics) if judged else {},
            "costs": dict(costed.costs),
            "bytes": costed.bytes,
            "latency": {runtime: dc.asdict(getattr(pair, timed)) for runtime, pair in runtimes.items()}
            if timed
            else {},
        }
        for name, costed, judged, timed in known
        if costed and (name != "fine-tuned" or judged)
    ]


def _latency(results: Results) -> Content | None:
    """The latency of the budget: dense, predicted and measured, and the rounds of the closed loop."""
    planned = results.latency.planned if results.latency else None
    if planned is None or results.latency is None:
        return None
    limit_ms, met = results.latency.limits["latency"], results.prune.latency if results.prune else None
    last = results.measure if results.measure and results.measure.latency else None
    # until the finished network has been timed, the timing of the pruned network takes its place
    pair, error = (met.chosen.timing, met.chosen.relative_error) if met else (None, None)
    if last is not None:
        pair, error = last.latency, last.relative_error
    dense, timed = dc.asdict(planned.dense), None
    if pair is not None and error is not None:
        # the dense network's latency at the machine's speed, from all of its measurements in the run
        timed = _at(limit_ms * (1 + error), pair.pruned)
        dense = _at(limit_ms * (1 + error) / pair.pruned.ratio, planned.dense)
    return {
        "runtime": planned.key.runtime,
        "batch": planned.batch,
        "settings": dict(planned.key.settings),
        "limit_ms": limit_ms,
        "fit": dc.asdict(planned.fit) if planned.fit else None,
        "dense": dense,
        "predicted_ms": met.predicted_ms if met else None,
        "measured": timed,
        "relative_error": error,
        "finished": last is not None,
        "rounds": [dc.asdict(each) for each in met.rounds] if met else [],
    }


def _at(median: float, timing: Timing) -> Content:
    """A timing scaled to another speed of the machine, at which its median has this value."""
    return {**dc.asdict(timing), "median_ms": median, "spread": timing.spread * median / timing.median_ms}


def _groups(groups: Sequence[TracedGroup], sizes: Mapping[str, int]) -> list[Content]:
    return [
        {**dc.asdict(each.group), "chosen": each.chosen, "kept": sizes.get(each.group.name, each.group.size)}
        for each in groups
    ]


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


def method_label(section: Mapping[str, Any]) -> str:
    """Name of a recipe's method: that of the criterion if the method takes one."""
    criterion = section.get("criterion") if section["name"] == "score" else None
    return str(criterion.get("name") if isinstance(criterion, Mapping) else criterion or section["name"])
