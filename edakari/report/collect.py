"""The figures of a run, gathered from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edakari.errors import RunFolderError

__all__ = ["collect"]

Content = dict[str, Any]


def collect(folder: str | Path) -> Content:
    """All that is known of a run, finished or not, as plain values.

    Args:
        folder: of a run.

    Returns:
        The content of `report.json`; `networks` holds what is known of the dense, the pruned and the fine-tuned
        network, each with `metrics`, `costs`, `bytes` and `latency` in ms by runtime.

    Raises:
        RunFolderError: it is no run folder, nothing has been measured in it yet, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise RunFolderError(f"{folder} is no run folder: it has no recipe.yaml. `edakari prune` makes one.")
    stages = {path.stem: _read(path) for path in sorted((folder / "stages").glob("*.json"))}
    if "trace" not in stages:
        raise RunFolderError(f"{folder} holds no results yet; run its recipe with `edakari prune` first")
    traced, pruned = stages["trace"], stages.get("prune", {})
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    environment = folder / "environment.json"
    return {
        "version": 1,
        "model": recipe["model"]["name"],
        "method": recipe["method"]["name"],
        "paper": pruned.get("paper", ""),
        "budget": traced["budget"],
        "limits": traced["limits"],
        "finished": "export" in stages,
        "metric": stages.get("dense", {}).get("metric"),
        "networks": _networks(stages),
        "measured": {key: stages.get("measure", {}).get(key) for key in ("batch", "threads")},
        "groups": _groups(traced["groups"], pruned.get("sizes")),
        "refused": traced["refused"],
        "uncounted": traced["uncounted"],
        "difference": stages.get("check", {}).get("difference"),
        "log": pruned.get("log", []),
        "epochs": stages.get("finetune", {}).get("epochs", []),
        "export": stages.get("export", {}).get("files", []),
        "seconds": {name: stage["seconds"] for name, stage in stages.items() if "seconds" in stage},
        "recipe": recipe,
        "environment": _read(environment) if environment.is_file() else {},
    }


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


def _groups(groups: list[Content], sizes: Mapping[str, int] | None) -> list[Content]:
    return [{**group, "kept": (sizes or {}).get(group["name"], group["size"])} for group in groups]


def _read(path: Path) -> Content:
    try:
        content: Content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}; remove it to run its stage again") from error
    return content
