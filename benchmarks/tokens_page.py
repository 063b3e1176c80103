"""The tables of token pruning as text; see tokens.py and tokens_accuracy.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def speed(results: Mapping[str, Any]) -> str:
    """Time, speed-up and what the multiply-accumulates promise, for each arm and batch."""
    lines = ["| batch | method | ms | speed-up | expected | reached |", "|---" * 6 + "|"]
    for batch, found in results["batches"].items():
        lines.append(f"| {batch} | dense | {found['dense_ms']:.1f} | – | – | – |")
        for arm, row in found["arms"].items():
            lines.append(
                f"| {batch} | {arm} | {row['ms']:.1f} | {row['speedup']:.2f} | {row['promised']:.2f} | "
                f"{row['reached']:.0%} |"
            )
    return "\n".join([*lines, "", f"{_where(results['environment'])} `{results['environment']['command']}`."])


def accuracy(results: Mapping[str, Any]) -> str:
    """Top-1 accuracy of each arm at each share of the latency, cut and trained: mean and deviation over the seeds."""
    rows = list(results["rows"].values())
    shares = sorted({row["share"] for row in rows}, reverse=True)
    heads = [f"{share:.0%} of the time, {kind}" for share in shares for kind in ("cut", "trained")]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for arm in dict.fromkeys(name.rpartition(" ")[0] for name in results["plans"]):
        cells = []
        for share in shares:
            for tuned in (False, True):
                chosen = [row for row in rows if (row["arm"], row["share"], row["tuned"]) == (arm, share, tuned)]
                cells.append(_cell(chosen, results["plans"].get(f"{arm} {share:g}", {})))
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    settings = results["settings"]
    images = f"{settings['limit'] or 'all'} training images"
    how = (
        f"Dense network: {results['dense_top1']:.2%}. Trained for {settings['epochs']} epochs of {images}, every "
        f"method alike; seeds: {len({row['seed'] for row in rows})}. In brackets the fraction of MACs that is "
        f"left, and of the time where it was measured again. {_where(results['environment'])} "
        f"`{results['environment']['train']}`."
    )
    return "\n".join([*lines, "", how])


def joint(results: Mapping[str, Any]) -> str:
    """Accuracy of each arm at each budget, cut and trained, by seed."""
    lines = ["| budget | arm | seed | by tokens | MACs left | cut | trained |", "|---" * 7 + "|"]
    for row in results["rows"].values():
        if "infeasible" in row:
            lines.append(f"| `{row['budget']}` | {row['arm']} | {row['seed']} | out of reach | – | – | – |")
            continue
        tokens = "–" if row["by_tokens"] is None else f"{row['by_tokens']:.0%}"
        lines.append(
            f"| `{row['budget']}` | {row['arm']} | {row['seed']} | {tokens} | {row['macs']:.0%} | "
            f"{row['cut_top1']:.2%} | {row['top1']:.2%} |"
        )
    settings, environment = results["settings"], results["environment"]
    dense = next(iter(results["rows"].values()))["dense_top1"]
    how = (
        f"Top-1 accuracy; dense network: {dense:.2%}. Tokens by `{settings['selector']}`; fine-tuned for "
        f"{settings['epochs']} epoch of {settings['images'] or 'all'} training images, every arm alike. "
        f"{environment['processor']}, torch {environment['torch']}. `{environment['command']}`."
    )
    return "\n".join([*lines, "", how])


def _where(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    return f"{environment['date']}, {environment['processor']}, {versions}."


def _cell(rows: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> str:
    if not rows:
        return "–"
    tops = [100 * row["top1"] for row in rows]
    spread = f" ± {statistics.stdev(tops):.2f}" if len(tops) > 1 else ""
    latency = f", {plan['latency']:.0%}" if "latency" in plan else ""
    return f"{statistics.mean(tops):.2f} %{spread} ({rows[0]['macs']:.0%}{latency})"
