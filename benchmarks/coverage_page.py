"""The coverage tables as text: a summary of a run and a page with every network; see coverage.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

GOOD = ("exact", "shapes", "nothing to prune")
PEERS = ("torch-pruning", "torch-kirigami")
TITLES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "timm-all": "timm, every network, by shapes alone",
    "transformers": "transformers",
    "ultralytics": "ultralytics",
    "monai": "MONAI",
    "smp": "segmentation_models_pytorch",
    "diffusers": "diffusers",
    "open_clip": "open_clip",
    "vit_pytorch": "vit-pytorch",
    "kornia": "kornia",
    "spandrel": "spandrel",
    "own": "awkward ones of our own",
}

Networks = Mapping[str, Mapping[str, Any]]


def verdict(found: Mapping[str, Any]) -> str:
    """One word on what edakari did with a network."""
    if "failed" in found:
        return "failed"
    if found["error"] is None:
        return "shapes"
    good = found["error"] < found["tolerance"] and found["backward"] is not False and found["reloads"]
    return ("exact" if found["groups"] else "nothing to prune") if good else "WRONG"


def summary(results: Mapping[str, Any]) -> str:
    """A line for each library, and how the peers do on the same networks."""
    lines = [
        "| networks | tried | exact | shapes only | wrong or failed | parameters in groups, median (least) | trace and "
        "cut, median | torch-pruning prunes | torch-kirigami captures |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for source, title in TITLES.items():
        networks = {name: e for name, e in results["networks"].items() if name.startswith(source + ":")}
        if networks:
            lines.append(f"| {title} | {' | '.join(_cells(list(networks.values())))} |")
    both = compared(results["networks"])
    return "\n".join([*lines, "", *([both, ""] if both else []), _how(results)])


def _cells(networks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    found = [entry["edakari"] for entry in networks]
    words = [verdict(each) for each in found]
    good = [each for each, word in zip(found, words, strict=True) if word in GOOD]
    shares = [each["prunable"] for each in good]
    yield str(len(found))
    yield str(sum(word in ("exact", "nothing to prune") for word in words))
    yield str(words.count("shapes"))
    yield str(len(found) - len(good))
    yield f"{statistics.median(shares):.1%} ({min(shares):.1%})" if shares else "–"
    yield f"{statistics.median(each['trace_s'] + each['apply_s'] for each in good):.2f} s" if good else "–"
    for peer in PEERS:
        asked = [entry[peer] for entry in networks if peer in entry]
        yield f"{sum('failed' not in each for each in asked)} of {len(asked)}" if asked else "–"


def compared(networks: Networks) -> str:
    """Where torch-pruning runs too: whose groups hold more of the parameters."""
    both = [
        (entry["edakari"]["prunable"], entry["torch-pruning"]["prunable"])
        for entry in networks.values()
        if "failed" not in entry["edakari"] and "failed" not in entry.get("torch-pruning", {"failed": ""})
    ]
    if not both:
        return ""
    less = sum(ours < theirs - 0.001 for ours, theirs in both)
    return (
        f"On the {len(both)} networks that torch-pruning prunes too, the fraction of the parameters in groups "
        f"is at least as large here on {len(both) - less}; medians {statistics.median(a for a, _ in both):.1%} here, "
        f"{statistics.median(b for _, b in both):.1%} there."
    )


def _how(results: Mapping[str, Any]) -> str:
    environment = results["environment"]
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    return (
        f"{environment['date']}, {environment['processor']}, {environment['threads']} thread(s), Python "
        f"{environment['python']}, {versions}. `{environment['command']}`."
    )


def latest(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is known of every network; what a later run did not ask of peers stays."""
    every: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, entry in run["networks"].items():
            every[name] = {**every.get(name, {}), **entry}
    return every


def networks(runs: Sequence[Mapping[str, Any]]) -> str:
    """The page with a row for every network.

    Args:
        runs: the earliest first.
    """
    parts = [
        "# Coverage, network by network",
        "",
        "`python benchmarks/tables.py` writes this page. The page [coverage](coverage.md) says how the networks were "
        "tried and what the columns mean. The networks of timm that were only checked by shapes are not listed.",
    ]
    every = latest(runs)
    for source, title in TITLES.items():
        chosen = {name: entry for name, entry in every.items() if name.startswith(source + ":")}
        if chosen and source != "timm-all":  # over a thousand rows that all say the same
            parts += ["", f"## {title[0].upper()}{title[1:]}", "", *_table(chosen)]
    return "\n".join(parts) + "\n"


def _table(networks: Networks) -> Iterator[str]:
    yield (
        "| network | result | error | groups | branches | groups hold | MACs left | trace | cut | torch-pruning | "
        "torch-kirigami |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, entry in sorted(networks.items()):
        yield f"| {name.partition(':')[2]} | {' | '.join(_row(entry))} |"


def _row(entry: Mapping[str, Any]) -> Iterator[str]:
    found = entry["edakari"]
    yield verdict(found)
    if "failed" in found:
        yield from [found["failed"].replace("|", "/").replace("\n", " ")[:120], *["–"] * 6]
    else:
        yield "–" if found["error"] is None else f"{found['error']:.0e}"
        yield str(found["groups"])
        yield str(found["branches"])
        yield f"{found['prunable']:.1%}"
        yield f"{found['macs']:.0%}"
        yield f"{found['trace_s']:.2f} s{'' if found['device'] == 'meta' else ' (CPU)'}"
        yield f"{found['apply_s']:.2f} s"
    for peer in PEERS:
        yield _peer(entry.get(peer))


def _peer(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    if "failed" in found:
        kind = found["failed"].partition(":")[0]
        return "no answer in time" if kind.startswith("no answer") else f"fails: {kind}"
    if "prunable" not in found:
        return f"captures, {found['seconds']:.1f} s"
    return f"prunes, {found['seconds']:.1f} s, groups hold {found['prunable']:.1%}"
