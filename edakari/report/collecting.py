"""The figures of a run, gathered from its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.core.reading import because, inside, read_json, read_text
from edakari.core.reading_yaml import YAML_BYTES, parse_yaml
from edakari.errors import RunFolderError
from edakari.report.explanation import explanations
from edakari.report.stage_files import check_stage

__all__ = ["collect"]

Content = dict[str, Any]


@file_errors()
def collect(folder: str | Path) -> Content:
    """All that is known of a run, finished or not, as plain values.

    Args:
        folder: of a run.

    Returns:
        The content of `report.json`; `networks` holds what is known of the dense, the pruned and the fine-tuned
        network, each with `metrics`, `costs`, `bytes` and `latency` in ms by runtime. `latency` is None without a
        latency in the budget.

    Raises:
        RunFolderError: it is no run folder, nothing has been measured in it yet, or a file is damaged.
    """
    require("collect(folder)", folder=(folder, (str, Path)))
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise RunFolderError(f"{folder} is no run folder: it has no recipe.yaml. `edakari prune` makes one.")
    paths = sorted((folder / "stages").glob("*.json"))
    stages = {path.stem: check_stage(path.stem, _read(folder, path), path) for path in paths}
    if "trace" not in stages:
        raise RunFolderError(f"{folder} holds no results yet; run its recipe with `edakari prune` first")
    _check_metrics(folder, stages)
    traced, pruned = stages["trace"], stages.get("prune", {})
    recipe = _recipe(folder)
    environment = folder / "environment.json"
    return {
        "version": 1,
        "model": recipe["model"]["name"],
        "random_weights": recipe["model"].get("weights") == "random",
        "method": recipe["method"]["name"],
        "paper": pruned.get("paper", ""),
        "budget": traced["budget"],
        "limits": stages.get("latency", traced).get("limits", {}),
        "finished": "export" in stages,
        "metric": stages.get("dense", {}).get("metric"),
        "networks": _networks(stages),
        "measured": {key: stages.get("measure", {}).get(key) for key in ("batch", "threads")},
        "latency": _latency(stages),
        "groups": _groups(traced["groups"], pruned.get("sizes")),
        "tokens": pruned.get("tokens", []),
        "unprunable": traced["unprunable"],
        "uncounted": traced["uncounted"],
        "difference": stages.get("check", {}).get("difference"),
        "log": pruned.get("log", []),
        "epochs": stages.get("finetune", {}).get("epochs", []),
        "export": stages.get("export", {}).get("files", []),
        "explanations": explanations(folder),
        "seconds": {name: stage["seconds"] for name, stage in stages.items() if "seconds" in stage},
        "recipe": recipe,
        "environment": _read(folder, environment) if os.path.lexists(environment) else {},
    }


def _check_metrics(folder: Path, stages: Mapping[str, Content]) -> None:
    """Refuse files of which one judges by another metric than the others."""
    metric = stages.get("dense", {}).get("metric")
    for name in ("check", "finetune"):
        if metric and name in stages and metric not in stages[name]["metrics"]:
            path = folder / "stages" / f"{name}.json"
            raise RunFolderError(f"{path} has no {metric!r}, by which the run judges; remove it to run its stage again")


def _networks(stages: Mapping[str, Content]) -> list[Content]:
    traced, check = stages["trace"], stages.get("check")
    runtimes = stages.get("measure", {}).get("runtimes", {})
    known = {
        "dense": (traced, stages.get("dense"), "dense"),
        "pruned": (check, check, None),
        "fine-tuned": (check, stages.get("finetune"), "pruned"),
    }
    return [
        {
            "name": name,
            "metrics": judged["metrics"] if judged else {},
            "costs": costed["costs"],
            "bytes": costed["bytes"],
            "latency": {runtime: found[timed] for runtime, found in runtimes.items()} if timed else {},
        }
        for name, (costed, judged, timed) in known.items()
        if costed and (name != "fine-tuned" or judged)
    ]


def _latency(stages: Mapping[str, Content]) -> Content | None:
    """The latency of the budget: dense, predicted and measured, and the rounds in which it was met."""
    planned, met = stages.get("latency", {}), stages.get("prune", {}).get("latency")
    if "dense" not in planned:
        return None
    last = stages.get("measure", {}).get("latency")
    rounds = met["rounds"] if met else []
    # until the finished network has been timed, the network as it was cut says how long it takes
    cut = next((each for each in rounds if each["relative_error"] == met["relative_error"]), None) if met else None
    timed = last or (cut and {**cut["timing"], "relative_error": cut["relative_error"]})
    return {
        "runtime": planned["runtime"],
        "batch": planned["batch"],
        "settings": planned["settings"],
        "limit_ms": planned["limits"]["latency"],
        "fit": planned["fit"],
        "dense": _dense_beside(planned, timed) if timed else planned["dense"],
        "predicted_ms": met["predicted_ms"] if met else None,
        "measured": _at(planned["limits"]["latency"] * (1 + timed["relative_error"]), timed["pruned"])
        if timed
        else None,
        "relative_error": timed["relative_error"] if timed else None,
        "finished": last is not None,
        "rounds": rounds,
    }


def _dense_beside(planned: Content, timed: Content) -> Content:
    """The dense network at the machine's speed by all that was measured of it in the run."""
    pruned_ms = planned["limits"]["latency"] * (1 + timed["relative_error"])
    return _at(pruned_ms / timed["pruned"]["ratio"], planned["dense"])


def _at(median: float, timing: Content) -> Content:
    """A timing at another speed of the machine, at which its median is this."""
    return {**timing, "median_ms": median, "spread": timing["spread"] * median / timing["median_ms"]}


def _groups(groups: list[Content], sizes: Mapping[str, int] | None) -> list[Content]:
    return [{**group, "kept": (sizes or {}).get(group["name"], group["size"])} for group in groups]


def _recipe(folder: Path) -> Content:
    path = folder / "recipe.yaml"
    try:
        content, _ = parse_yaml(read_text(inside(folder, path.name), YAML_BYTES))
        names = content["model"]["name"], content["method"]["name"]
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
