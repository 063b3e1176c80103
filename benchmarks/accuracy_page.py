"""The accuracy table as text; see cifar10.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cifar10_arms import BUDGETS, planned
from paired import differences

COMPARED = ("smcp repeated", "smcp")
"""Arms of the grid whose differences from all others are shown."""


def accuracy(results: Mapping[str, Any]) -> str:
    """Top-1 accuracy of each method at each budget: mean and standard deviation over the seeds."""
    everything = list(results["arms"].values())
    rows = [row for row in everything if row["budget"] in BUDGETS]
    afterwards = [row for row in everything if row["budget"] not in BUDGETS]
    environment, settings = results["environment"], results["settings"]
    seeds = len({row["seed"] for row in rows})
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    how = (
        f"Dense network: {rows[0]['dense_top1']:.2%}. Every method: {settings['epochs']} epoch of "
        f"{settings['limit'] or 'all'} images in batches of {settings['batch']}. Mean ± standard deviation over the "
        f"seeds ({seeds}), in brackets the fractions of the multiply-accumulates and of the latency that are left. "
        f"{environment['date']}, "
        f"{environment['processor']}, Python {environment['python']}, {versions}. `{environment['command']}`."
    )
    if "trials" in results:
        how += f" Settings of each arm: the best of {_most_trials(results)} trials on training images."
    missing = [key for key in planned() if key not in results["arms"]] if "trials" in results else []
    if missing:
        how += f" **The table is partial: {len(missing)} of {len(planned())} runs are missing.**"
    later = {row["arm"]: row["environment"] for row in rows if "environment" in row}
    remarks = [f"{arm} anew on {found['processor']}, latency not timed." for arm, found in later.items()]
    listed = [budget for budget in BUDGETS if any(row["budget"] == budget for row in rows)]
    compared = [part for arm in COMPARED if "trials" in results for part in ("", differences(rows, arm, listed))]
    further = [
        "",
        "Budgets tried after the table was complete, with the settings of the table:",
        "",
        *_table(afterwards),
    ]
    return "\n".join([*_table(rows), "", " ".join([how, *remarks]), *compared, *(further if afterwards else ())])


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    budgets = sorted({row["budget"] for row in rows}, key=lambda budget: ("latency" in budget, -_percent(budget)))
    lines = [f"| method | {' | '.join(budgets)} |", "|---" * (len(budgets) + 1) + "|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = [_cell([row for row in rows if (row["arm"], row["budget"]) == (arm, budget)]) for budget in budgets]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def _most_trials(results: Mapping[str, Any]) -> int:
    arms = [key.rpartition(", trial ")[0] for key in results["trials"]]
    return max((arms.count(arm) for arm in arms), default=0)


def _percent(budget: str) -> float:
    return float(budget.partition("<=")[2].rstrip("%"))


def _cell(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "–"
    tops = [100 * row["top1"] for row in rows]
    spread = f" ± {statistics.stdev(tops):.2f}" if len(tops) > 1 else ""
    known = [[row[cost] for row in rows if cost in row] for cost in ("macs", "latency")]
    shares = ", ".join(f"{statistics.mean(values):.0%}" for values in known if values)
    return f"{statistics.mean(tops):.2f} %{spread} ({shares})"
