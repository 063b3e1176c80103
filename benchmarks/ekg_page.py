"""The tables on EKG as text; see ekg_ablation.py, ekg_ranks.py and ekg_diagnostics.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

RECIPE_EPOCHS, RECIPE_IMAGES = 100, 45000
"""Fine-tuning by the recipe of the ablation, were it not cut short."""


def ablation(results: Mapping[str, Any]) -> str:
    """Top-1 accuracy by who teaches in the search and in the fine-tuning: mean and deviation over the seeds."""
    rows = list(results["arms"].values())
    dense = next((row["top1"] for row in rows if row["arm"] == "dense"), None)
    lines = [
        "| teacher in the search / in the fine-tuning | top-1 | seeds | CPU time of search, bank, fine-tuning |",
        "|---|---|---|---|",
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows if row["arm"] != "dense"):
        own = [row for row in rows if row["arm"] == arm]
        seconds = (statistics.mean(row["cpu_s"][part] for row in own) for part in ("search", "bank", "finetune"))
        lines.append(f"| {arm} | {_top1(own)} | {len(own)} | {', '.join(f'{each:.0f} s' for each in seconds)} |")
    settings = results["settings"]
    text = f"Dense network: {dense:.2%}. " if dense is not None else ""
    text += f"Mean ± standard deviation; {settings['limit']:,} images, seen once in two views. {_share(results)}"
    return "\n".join([*lines, "", f"{text} {_how(results['environment'])}"])


def ranks(results: Mapping[str, Any]) -> str:
    """One sentence on how much faster several processes are."""
    medians = {world: statistics.median(seconds) for world, seconds in results["seconds"].items()}
    times = ", ".join(f"{world} process{'es' if world != '1' else ''}: {each:.1f} s" for world, each in medians.items())
    last = results["times_as_fast"][list(medians)[-1]]
    same = "the same trail and plan in all" if results["same"] else "not the same trail in all"
    count = len(next(iter(results["seconds"].values())))
    return (
        f"{times} ({f'medians of {count}' if count > 1 else 'one run each'}), {last:.2f} times as fast; {same}, "
        f"{results['steps']} steps. {_how(results['environment'])}"
    )


def foretelling(results: Mapping[str, Any]) -> str:
    """Correlations with the loss after fine-tuning, and what search images lead to."""
    parts = []
    if "foretold" in results:
        found = results["foretold"]
        lines = ["| figure before fine-tuning | correlation with the loss after it | of ranks |", "|---|---|---|"]
        names = {"reward": "reward", "loss": "loss on the search images", "condition": "condition number"}
        for key, name in names.items():
            values = found["correlations"][key]
            lines.append(f"| {name} | {values['pearson']:+.2f} | {values['spearman']:+.2f} |")
        text = f"{len(found['networks'])} networks. {_how(found['environment'])}"
        parts.append("\n".join([*lines, "", text]))
    if "search_data" in results:
        found = results["search_data"]
        kinds = {"training": "training, as they are", "augmented": "training, augmented", "held_out": "held out"}
        lines = ["| search images | loss of the dense network on them | top-1 before | after |", "|---|---|---|---|"]
        for key, name in kinds.items():
            cells = (_mean([row[part] for row in found[key]], 100, " %") for part in ("before", "after"))
            lines.append(f"| {name} | {_mean([row['start'] for row in found[key]])} | {' | '.join(cells)} |")
        parts.append("\n".join([*lines, "", f"{len(found['training'])} seeds. {_how(found['environment'])}"]))
    return "\n\n".join(parts)


def _top1(rows: Sequence[Mapping[str, Any]]) -> str:
    return _mean([row["top1"] for row in rows], 100, " %")


def _mean(values: Sequence[float], factor: float = 1.0, unit: str = "") -> str:
    spread = f" ± {factor * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{factor * statistics.mean(values):.2f}{spread}{unit}"


def _share(results: Mapping[str, Any]) -> str:
    """How the search compares with fine-tuning as long as the recipe has it, by the seconds measured here."""
    rows = [row for row in results["arms"].values() if row["arm"].startswith("ensemble")]
    if not rows:
        return ""
    search, tuned = (statistics.mean(row["cpu_s"][part] for row in rows) for part in ("search", "finetune"))
    seen = results["settings"]["limit"] * results["settings"]["epochs"]
    share = search / (tuned / seen * RECIPE_IMAGES * RECIPE_EPOCHS)
    return (
        f"Of the recipe's own fine-tuning ({RECIPE_EPOCHS} epochs of {RECIPE_IMAGES:,} images, at the seconds an image "
        f"takes here) the search would take {share:.1%}."
    )


def _how(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    return (
        f"{environment['date']}, {environment['processor']}, Python {environment['python']}, {versions}. "
        f"`{environment['command']}`."
    )
