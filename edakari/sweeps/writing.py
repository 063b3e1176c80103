"""Writes a comparison: as Markdown, CSV, JSON and a page."""

from __future__ import annotations

import csv
import dataclasses as dc
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edakari.core.budget import is_latency
from edakari.core.files import write_json, write_text
from edakari.core.tables import Table
from edakari.report import formatting
from edakari.sweeps.statistics import Difference, Spread
from edakari.sweeps.table import Results, Row

__all__ = ["content_of", "markdown", "table_of", "write_results"]

NAMES = ("results.md", "results.csv", "results.json", "results.html")
NOISE = "≈"
UNFAIR = "†"


def write_results(results: Results, folder: Path) -> Path:
    """Write a comparison into a folder.

    Args:
        results: the comparison.
        folder: folder for `results.md`, `results.csv`, `results.json` and `results.html`.

    Returns:
        The path of the page.
    """
    from edakari.sweeps.page import render  # which needs an extra

    content = content_of(results, folder)
    write_json(folder / "results.json", content)
    write_text(folder / "results.md", markdown(results))
    write_text(folder / "results.csv", _csv(results, folder))
    write_text(folder / "results.html", render(results, folder))
    return folder / "results.html"


def content_of(results: Results, folder: Path | None = None) -> dict[str, Any]:
    """A comparison as plain values.

    Args:
        results: the comparison.
        folder: folder to which the paths of runs are relative; None leaves them as they are.
    """
    return {
        "version": 1,
        "name": results.name,
        "metric": results.metric or None,
        "keys": list(results.keys),
        "rows": [_plain(row, folder) for row in results.rows],
        "front": {
            cost: [index for index, row in enumerate(results.rows) if cost in row.front] for cost in results.costs
        },
        "failures": [dc.asdict(each) for each in results.failures],
        "missing": results.missing,
        "pruned": results.pruned,
    }


def _plain(row: Row, folder: Path | None) -> dict[str, Any]:
    difference = row.against_best
    judged = {**dc.asdict(difference), "within_noise": difference.within_noise} if difference else None
    runs = [{**entry.plain, "folder": link(entry.folder, folder)} for entry in row.entries]
    for run in runs:
        run.pop("settings")
    return {
        "settings": dict(row.settings),
        "budget": row.budget,
        "metric": dc.asdict(row.metric) if row.metric else None,
        "drop": dc.asdict(row.drop) if row.drop else None,
        "costs": {name: dc.asdict(each) for name, each in row.costs.items()},
        "shares": {name: dc.asdict(each) for name, each in row.shares.items()},
        "examples": row.examples,
        "seconds": row.seconds,
        "against_best": judged,
        "fair": row.fair,
        "front": list(row.front),
        "runs": runs,
    }


def link(target: str, folder: Path | None) -> str:
    """Path of a run folder, relative to the folder of a page."""
    if folder is None:
        return target
    return Path(os.path.relpath(target, folder)).as_posix()


def head_of(results: Results) -> list[str]:
    """Titles of the table's columns."""
    judged = [formatting.title_of(results.metric), "lost", "against the best"] if results.metric else []
    costs = [formatting.COSTS.get(cost, cost) for cost in results.costs]
    return [*results.keys, "seeds", *judged, *costs, "images seen", "time of a run"]


def cells_of(row: Row, results: Results) -> list[str]:
    """Texts of a row of the table."""
    judged = []
    if results.metric:
        judged = [
            spread_text(results.metric, row.metric),
            change_text(results.metric, row.drop),
            difference_text(results.metric, row.against_best),
        ]
    costs = [cost_text(row, cost) for cost in results.costs]
    seen = "–" if row.examples is None else formatting.cost(row.examples) + ("" if row.fair else f" {UNFAIR}")
    return [*row.settings.values(), str(len(row.entries)), *judged, *costs, seen, formatting.seconds(row.seconds)]


def spread_text(metric: str, found: Spread | None) -> str:
    """Format a mean with its standard deviation."""
    if found is None:
        return "–"
    text = formatting.metric(metric, found.mean)
    if found.std is None:
        return text
    scale = 100 if formatting.is_share(metric) else 1
    return f"{text.removesuffix(' %')} ± {found.std * scale:.2g}{' %' if scale == 100 else ''}"


def change_text(metric: str, found: Spread | None) -> str:
    """Format what a metric lost."""
    if found is None:
        return "–"
    return f"{found.mean * 100:.2f} points" if formatting.is_share(metric) else f"{found.mean:.3g}"


def difference_text(metric: str, found: Difference | None) -> str:
    """Format a paired difference with its interval; a difference within noise is marked."""
    if found is None:
        return "best"
    scale = 100 if formatting.is_share(metric) else 1
    text = f"{found.mean * scale:+.2f}".replace("-", "−")
    if found.low is None or found.high is None:
        return f"{text} (one seed)"
    interval = f"[{found.low * scale:+.2f}, {found.high * scale:+.2f}]".replace("-", "−")
    return f"{text} {interval}{f' {NOISE}' if found.within_noise else ''}"


def cost_text(row: Row, cost: str) -> str:
    """Format a cost, and its fraction of the unpruned network's."""
    found = row.costs[cost].mean
    text = f"{found:.3g} ms" if is_latency(cost) else formatting.cost(found)
    share = row.shares.get(cost)
    return f"{text} ({share.mean * 100:.1f} %)" if share else text


def notes_of(results: Results) -> list[str]:
    """Sentences that say how to read the table."""
    notes = []
    if results.metric:
        notes.append(
            "Means over the seeds ± standard deviation. Against the best of the same budget: mean difference over "
            "common seeds"
            + (", in points" if formatting.is_share(results.metric) else "")
            + f", with its 95 % confidence interval by Student's t; {NOISE} marks a difference within noise."
        )
    if any(not row.fair for row in results.rows):
        notes.append(f"{UNFAIR} This run saw another number of training images than the best of its budget.")
    if any(entry.random for entry in results.entries):
        notes.append("Some unpruned networks had random weights, so their accuracies are meaningless.")
    if results.pruned:
        notes.append(f"The pruner ended {counted(results.pruned, 'trial')} early.")
    if results.missing:
        notes.append(f"{counted(results.missing, 'run')} not finished.")
    notes += [f"Failed: {each.text}: {each.error}" for each in results.failures]
    return notes


def counted(count: int, noun: str) -> str:
    """Format a number of things."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def table_of(results: Results) -> Table:
    """The comparison as a small table, as the command line and notebooks show it."""
    rows = tuple(tuple(cells_of(row, results)) for row in results.rows)
    return Table(results.name, (), tuple(head_of(results)), rows, "\n  ".join(notes_of(results)))


def markdown(results: Results) -> str:
    """The comparison as a Markdown table."""
    head = head_of(results)
    first = len(results.keys)
    lines = [head, ["---" if index < first else "---:" for index in range(len(head))]]
    lines += [cells_of(row, results) for row in results.rows]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    notes = "\n\n".join(notes_of(results))
    return f"# {results.name}\n\n{table}\n\n{notes}\n"


def _csv(results: Results, folder: Path) -> str:
    """One line for each run."""
    out = io.StringIO()
    metrics = list(dict.fromkeys(name for entry in results.entries for name in entry.metrics))
    costs = list(dict.fromkeys(name for entry in results.entries for name in entry.costs))
    head = [*results.keys, "seed", *metrics, *(f"dense_{name}" for name in metrics), *costs]
    head += [*(f"{name}_of_dense" for name in costs), "images", "seconds", "folder"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in results.rows:
        for entry in row.entries:
            values: list[Any] = [*row.settings.values(), entry.seed]
            values += [_number(source, name) for source in (entry.metrics, entry.dense) for name in metrics]
            values += [_number(entry.costs, name) for name in costs]
            values += ["" if (share := entry.share(name)) is None else share for name in costs]
            seen = "" if entry.examples is None else entry.examples
            writer.writerow([*values, seen, entry.seconds, link(entry.folder, folder)])
    return out.getvalue()


def _number(source: Mapping[str, float], name: str) -> float | str:
    return source.get(name, "")
