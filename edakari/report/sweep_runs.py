"""Runs of the sweep in whose folder a run lies, for its trade-off charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edakari.core.reading import read_json

__all__ = ["sweep_runs"]

RESULTS = "results.json"


def sweep_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the other finished runs of a run's sweep: name, metrics, costs, and costs of the dense network.

    `edakari sweep` writes `results.json` beside the folder of its runs. A file that is damaged, or of something else,
    is as none: the run's own report does not depend on it.

    Args:
        folder: folder of the run.
    """
    home = folder.resolve()
    for path in (home.parent / RESULTS, home.parent.parent / RESULTS):
        if path.is_file():
            try:
                return list(_runs(read_json(path), path.parent, home))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return []
    return []


def _runs(content: Mapping[str, Any], base: Path, own: Path) -> Iterator[dict[str, Any]]:
    for row in content["rows"]:
        name = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
        for run in row["runs"]:
            figures = {key: _figures(run[key]) for key in ("metrics", "costs", "dense_costs")}
            if (base / run["folder"]).resolve() != own:
                yield {"name": f"{name}, seed {run['seed']}", **figures}


def _figures(found: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in found.items()}
