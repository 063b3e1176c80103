"""Writing the report into the run folder."""

from __future__ import annotations

from pathlib import Path

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.core.files import write_json, write_text
from edakari.report.collecting import collect
from edakari.report.explanation import inlined
from edakari.report.page import render
from edakari.report.picture import draw

__all__ = ["write_report"]


@file_errors()
def write_report(folder: str | Path) -> Path:
    """Write `report.json`, `report.html` and `report.png` from the results in a run folder.

    Args:
        folder: folder of a run, finished or not.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: the folder is not a run folder, has no results yet, or is not writable.
    """
    require("write_report(folder)", folder=(folder, (str, Path)))
    folder = Path(folder)
    report = collect(folder)
    write_json(folder / "report.json", report)
    draw(report, folder / "report.png")
    write_text(folder / "report.html", render(report, inlined(folder, report["explanations"])))
    return folder / "report.html"
