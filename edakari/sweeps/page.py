"""A comparison as one self-contained page."""

from __future__ import annotations

from pathlib import Path

from edakari.report import formatting
from edakari.report.template import template
from edakari.sweeps.entries import Entry
from edakari.sweeps.pictures import frontier, parallel, tones_of
from edakari.sweeps.table import Results
from edakari.sweeps.writing import cells_of, counted, head_of, link, notes_of

__all__ = ["render"]


def render(results: Results, folder: Path) -> str:
    """Render the page.

    Args:
        results: the comparison.
        folder: folder of the page, to which links are relative.
    """

    def report(entry: Entry) -> str:
        return f"{link(entry.folder, folder)}/report.html"

    judged = bool(results.metric) and any(row.metric is not None for row in results.rows)
    tones, first = tones_of(results), results.keys[0] if results.keys else ""
    rows = [
        {
            "cells": cells_of(row, results),
            "tone": tones[row.settings.get(first, "")],
            "front": [formatting.COSTS.get(cost, cost) for cost in results.costs if cost in row.front],
            "runs": [{"seed": entry.seed, "report": report(entry)} for entry in row.entries],
        }
        for row in results.rows
    ]
    return template("sweep.html.j2").render(
        results=results,
        head=head_of(results),
        rows=rows,
        first=len(results.keys),
        runs=counted(len(results.entries), "run"),
        settings=counted(len(results.rows), "setting"),
        notes=notes_of(results),
        fronts=[frontier(results, cost, report) for cost in results.costs] if judged else [],
        lines=parallel(results, report) if judged else "",
    )
