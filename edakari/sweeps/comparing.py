"""`edakari.compare`: compares runs that are there."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from pathlib import Path

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.errors import RunFolderError
from edakari.sweeps.entries import entry_of
from edakari.sweeps.table import Results, results_of
from edakari.sweeps.writing import table_of, write_results

__all__ = ["Comparison", "compare"]

CALL = "compare(folders)"


@dc.dataclass(frozen=True)
class Comparison:
    """Runs side by side; prints as a table.

    Args:
        results: the table, as data.
        page: path of the page; None if none was written.
        best: folder of the run that reaches the goal of a sweep best; None without a goal, and for a front.
    """

    results: Results
    page: Path | None = None
    best: Path | None = None

    def __repr__(self) -> str:
        text = table_of(self.results).text()
        return text if self.best is None else f"{text}\n  best: {self.best}"

    def _repr_html_(self) -> str:
        return table_of(self.results).html()


@file_errors()
def compare(folders: Sequence[str | Path], output: str | Path | None = None, *, name: str = "Comparison") -> Comparison:
    """Compare finished runs: one row for each setting, over its seeds.

    The rows are told apart by the keys in which the recipes differ, except for `seed`. Differences are taken between
    runs of the same seed, against the best setting of the same budget.

    Args:
        folders: run folders; a folder that holds run folders stands for them.
        output: folder for `results.md`, `results.csv`, `results.json` and `results.html`; None writes none.
        name: name of the comparison.

    Raises:
        RunFolderError: a folder is no run folder, a run is not finished, or there is none.
    """
    from edakari.report import collect  # which needs an extra

    require(CALL, folders=(folders, (list, tuple)), output=(output, (str, Path, type(None))), name=(name, str))
    found = [run for folder in folders for run in _runs(folder)]
    if not found:
        raise RunFolderError(f"{CALL}: names no folder; name run folders, such as runs/*")
    reports = [(folder, collect(folder)) for folder in dict.fromkeys(found)]
    for folder, report in reports:
        if not report["finished"]:
            raise RunFolderError(f"{folder} is not finished; run `edakari prune {folder}`, or leave it out")
    results = results_of(name, [entry_of(report, folder) for folder, report in reports])
    return Comparison(results, None if output is None else write_results(results, Path(output)))


def _runs(folder: str | Path) -> list[Path]:
    """The run folder, or those inside of a folder of runs or of a sweep."""
    require(CALL, folder=(folder, (str, Path)))
    path = Path(folder)
    if (path / "recipe.yaml").is_file():
        return [path]
    inside = [each.parent for place in (path, path / "runs") for each in sorted(place.glob("*/recipe.yaml"))]
    if not inside:
        raise RunFolderError(f"{path} is no run folder and holds none; `edakari prune` and `edakari sweep` make them")
    return inside
