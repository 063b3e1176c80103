"""Writes the measured tables of README.md and docs/ekg.md (between the marks of each, and nowhere else) and
docs/coverage.md.

    python benchmarks/tables.py

`core.json` comes from benchmarks/core.py, and so on; `demo.json` is the report.json of `edakari demo`. A section whose
results are not there stays as it is.
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
import latency_page
import tokens_page

from edakari.report.figures import rows

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"resnet50": "ResNet-50", "vit_base_patch16_224": "ViT-B/16", "densenet121": "DenseNet-121"}


def core_section(results: Mapping[str, Any]) -> str:
    """CPU time from network to smaller network, and the share of the MACs that is left, by network and library."""
    lines = [
        "| network | library | CPU time, s | ours takes | MACs left | of it, trace |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in results["networks"].items():
        own = entry["edakari"]["cpu_s"]["total"]
        for label, found in entry.items():
            lines.append(f"| {TITLES.get(name, name)} | {label} | {' | '.join(_core_cells(label, found, own))} |")
    environment = results["environment"]
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"{environment['date']}, {environment['processor']}, {environment['threads']} thread(s), Python "
            f"{environment['python']}, {versions}. Medians; `{environment['command']}`.",
        ]
    )


def _core_cells(label: str, found: Mapping[str, Any], own: float) -> list[str]:
    seconds = found.get("cpu_s", {})
    if "total" not in seconds:
        if "limit_s" in found:
            graph = f"; its graph alone took {seconds['graph']:.1f} s" if "graph" in seconds else ""
            return [f"did not end within {found['limit_s']} s{graph}", "–", "–", "–"]
        return ["failed", "–", "–", "–"]
    total, trace = seconds["total"], seconds.get("trace")
    return [
        f"{total:.2f}",
        "–" if label == "edakari" else f"{own / total:.0%} of its time",
        f"{found['macs_share']:.1%}" if "macs_share" in found else "–",
        "–" if trace is None else f"{trace:.2f} s",
    ]


def demo_section(report: Mapping[str, Any]) -> str:
    """The table of a run's report."""
    names = [network["name"] for network in report["networks"]]
    environment = report["environment"]
    lines = [f"| | {' | '.join(names)} | change |", "|---" * (len(names) + 2) + "|"]
    for row in rows(report):
        lines.append(f"| {row['name']} | {' | '.join(text or '–' for text in row['texts'])} | {row['change']} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{environment['date'][:10]}, {environment['processor']}, {environment['cores']} cores, one thread per "
            f"call; the stages took {sum(report['seconds'].values()):.0f} s together.",
        ]
    )


SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "budgets": latency_page.budgets,
    "cifar10": accuracy_page.accuracy,
    "core": core_section,
    "coverage": coverage_page.summary,
    "demo": demo_section,
    "ekg_ablation": ekg_page.ablation,
    "latency": latency_page.calibration,
    "tokens": tokens_page.speed,
    "tokens_accuracy": tokens_page.accuracy,
}

EKG_SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "ekg_diagnostics": ekg_page.foretelling,
    "ekg_ranks": ekg_page.ranks,
}


def replaced(text: str, name: str, section: str) -> str:
    """The text with a section between its marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text needs {begin} and then {end}, once each")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{section}\n{end}{rest.partition(end)[2]}"


def write(page: Path, sections: Mapping[Path, tuple[str, Callable[[Mapping[str, Any]], str]]]) -> None:
    """Write the sections whose results are there into a page."""
    for path, (name, section) in sections.items():
        if path.is_file():
            content = section(json.loads(path.read_text(encoding="utf-8")))
            page.write_text(replaced(page.read_text(encoding="utf-8"), name, content), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    arguments = parser.parse_args()
    docs = arguments.readme.parent / "docs"
    for page, sections in ((arguments.readme, SECTIONS), (docs / "ekg.md", EKG_SECTIONS)):
        write(page, {arguments.results / f"{name}.json": (name, section) for name, section in sections.items()})
    coverage = arguments.results / "coverage.json"
    if coverage.is_file():
        later = [arguments.results / f"coverage_{name}.json" for name in ("libraries", "timm")]
        found = [json.loads(path.read_text(encoding="utf-8")) for path in (coverage, *later) if path.is_file()]
        text = coverage_page.page(*found)
        (docs / "coverage.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
