"""Writes the measured tables of README.md, README.ja.md and docs/results, between the marks of each and nowhere else.

    python benchmarks/tables.py

`core.json` comes from benchmarks/core.py, and so on; `demo.json` is the report.json of `edakari demo`. A table whose
results are not there stays as it is. docs/results/networks.md is written as a whole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accuracy_page
import coverage_page
import ekg_page
import headline_page
import jobs_page
import latency_page
import loading_page
import speed_page
import tokens_page

ROOT = Path(__file__).resolve().parents[1]
COVERAGE = ("coverage", "coverage_libraries", "coverage_sample", "coverage_timm")
"""Runs of the coverage benchmark, the earliest first."""

Section = Callable[[Mapping[str, Any]], str]
PAGES: Mapping[str, Mapping[str, Section]] = {
    "accuracy.md": dict.fromkeys(("cifar10", "cifar10_grid"), accuracy_page.accuracy),
    "coverage.md": dict.fromkeys(COVERAGE, coverage_page.summary),
    "demo.md": {"demo": speed_page.demo},
    "ekg.md": {
        "ekg_ablation": ekg_page.ablation,
        "ekg_diagnostics": ekg_page.foretelling,
        "ekg_ranks": ekg_page.ranks,
    },
    "jobs.md": {"end_to_end": jobs_page.jobs, "training_loop": jobs_page.loop},
    "latency-budgets.md": {
        "budgets": latency_page.budgets,
        "convergence": latency_page.convergence,
        "int8_mobilenetv2": latency_page.int8,
    },
    "latency-prediction.md": {"latency": latency_page.calibration},
    "loading.md": {"loading": loading_page.loading},
    "pruning-speed.md": {"core": speed_page.core},
    "token-accuracy.md": {"tokens_accuracy": tokens_page.accuracy, "vit_joint": tokens_page.joint},
    "token-speed.md": {"tokens": tokens_page.speed},
}


def replaced(text: str, name: str, section: str) -> str:
    """The text with a section between its marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text needs {begin} and then {end}, once each")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{section}\n{end}{rest.partition(end)[2]}"


def write(page: Path, sections: Mapping[str, str]) -> None:
    """Write sections by name into a page."""
    for name, section in sections.items():
        page.write_text(replaced(page.read_text(encoding="utf-8"), name, section), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--root", type=Path, default=ROOT, help="where README.md and docs lie")
    arguments = parser.parse_args()
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in arguments.results.glob("*.json")}
    pages = arguments.root / "docs" / "results"
    for page, sections in PAGES.items():
        write(pages / page, {name: section(found[name]) for name, section in sections.items() if name in found})
    if found.keys() >= headline_page.NEEDED:
        write(arguments.root / "README.md", {"results": headline_page.table(found)})
        write(arguments.root / "README.ja.md", {"results": headline_page.table_ja(found)})
    runs = [found[name] for name in COVERAGE if name in found]
    if runs:
        (pages / "networks.md").write_text(coverage_page.networks(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
