"""The tables on the speed of loading and of lists of files as text; see loading.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

OWN = "edakari"


def loading(results: Mapping[str, Any]) -> str:
    """Images a second and core by loader, and the cost of lists of files by lister."""
    parts: list[str] = []
    if "rates" in results:
        parts += [_rates(results["rates"]), ""]
    if "lists" in results:
        parts += [_lists(results["lists"]), ""]
    return "\n".join(parts[:-1])


def _rates(found: Mapping[str, Any]) -> str:
    splits = found["by_split"]
    medians = {name: {split: statistics.median(splits[split][name]) for split in splits} for name in splits["train"]}
    fastest = {split: max(each[split] for name, each in medians.items() if name != OWN) for split in splits}
    lines = ["| images a second and core | training crop | evaluation crop |", "|---|---|---|"]
    for name, each in medians.items():
        cells = [f"{each[split]:.0f} ({each[split] / fastest[split]:.2f})" for split in ("train", "evaluation")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    width, height = found["size"]
    rounds = len(splits["train"][OWN])
    lines += [
        "",
        f"{found['count']} JPEG files of {width}x{height} pixels, {found['mean_bytes'] / 1024:.0f} KiB each; median of "
        f"{rounds} rounds; in brackets, compared with the fastest of the others. {_where(found['environment'])}",
    ]
    return "\n".join(lines)


def _lists(found: Mapping[str, Any]) -> str:
    lines = [
        "| list of files | CPU time | memory | a forked worker adds | pickled for a spawned worker |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in found["by_lister"].items():
        each = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        lines.append(
            f"| {name} | {each['cpu_s']:.1f} s | {each['added_mb']:.0f} MB | {each['worker_added_mb']:.0f} MB | "
            f"{each['pickle_mb']:.0f} MB, {each['pickle_s'] + each['unpickle_s']:.2f} s |"
        )
    files = _first(found["by_lister"])["files"]
    lines += ["", f"{files:,} empty files in 1,000 folders. {_where(found['environment'])}"]
    return "\n".join(lines)


def _first(by_lister: Mapping[str, Sequence[Mapping[str, Any]]]) -> Mapping[str, Any]:
    return next(iter(by_lister.values()))[0]


def _where(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("torch", "torchvision", "timm"))
    return f"{environment['date']}, {environment['processor']}, one thread, {versions}; `{environment['command']}`."
