"""The tables on complete jobs and on the training loop as text; see end_to_end.py and training_loop.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

JOBS = {
    "demo": "edakari demo",
    "cifar10": "ResNet-20 on CIFAR-10",
    "imagenet": "20,000 JPEGs, ResNet-50 forward",
}
FEWEST_S = 0.2
"""Stages that take less CPU time than this in both versions are left out."""


def jobs(results: Mapping[str, Any]) -> str:
    """CPU seconds of each stage of each job, before and now."""
    lines = ["| job | stage | before, s | now, s | now / before |", "|---|---|---|---|---|"]
    notes = []
    for name, label in JOBS.items():
        if name not in results:
            continue
        found = results[name]
        for stage, figures in found["stages"].items():
            both = [figures.get(f"{version}_cpu_s", {}).get("median") for version in ("before", "after")]
            if None not in both and max(both) >= FEWEST_S:
                cells = [f"{seconds:.1f}" for seconds in both]
                lines.append(f"| {label} | {stage} | {' | '.join(cells)} | {_ratios(figures['cpu_ratios'])} |")
        peaks = [f"{statistics.median(found['peak_mb'][version]) / 1000:.2f}" for version in ("before", "after")]
        notes.append(
            f"{label}: {found['rounds']} round(s); commits {found['commits']['before']} and "
            f"{found['commits']['after']}; peak memory of the main process {peaks[0]} and {peaks[1]} GB; "
            f"`{found['environment']['command']}`."
        )
    environment = next(iter(results.values()))["environment"]
    return "\n".join([*lines, "", f"CPU time. {_where(environment)}", "", *(f"- {note}" for note in notes)])


def loop(result: Mapping[str, Any]) -> str:
    """CPU time of a step of either loop."""
    low, high = result["ratio_quartiles"]
    seconds = result["cpu_s_per_step"]
    return "\n".join(
        [
            "| a step of ResNet-20, batch of 128 | CPU time |",
            "|---|---|",
            f"| written by hand | {seconds['by_hand']:.3f} s |",
            f"| `edakari.fit` | {seconds['fit']:.3f} s |",
            f"| ratio, median of {result['rounds']} rounds of {result['steps']} steps | {result['ratio']:.3f} "
            f"(quartiles {low:.3f} to {high:.3f}) |",
            "",
            f"{_where(result['environment'])} `{result['environment']['command']}`.",
        ]
    )


def _ratios(ratios: Sequence[float]) -> str:
    middle = f"{statistics.median(ratios):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f} to {max(ratios):.2f})"


def _where(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return f"{environment['date']}, {environment['processor']}, one thread, {versions}."
