"""Paired differences between the arms of cifar10.py: of runs that have the budget and the seed in common."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["differences", "interval"]


STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""The 97.5 % point of Student's t by the number of values, which have one degree of freedom less."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of confidence of a mean of 2 to 5 values."""
    half = STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


def differences(rows: Sequence[Mapping[str, Any]], arm: str, budgets: Sequence[str]) -> str:
    """A table of how far an arm is above every other arm, in points of top-1, at each budget and over all of them.

    Args:
        rows: runs with `arm`, `budget`, `seed` and `top1`.
        arm: the arm that is compared.
        budgets: the budgets, in order.
    """
    top = {(row["arm"], row["budget"], row["seed"]): 100 * row["top1"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    lines = [f"| {arm} above | {' | '.join(budgets)} | all |", "|---" * (len(budgets) + 2) + "|"]
    for other in dict.fromkeys(row["arm"] for row in rows if row["arm"] != arm):
        pairs = {
            (budget, seed): top[arm, budget, seed] - top[other, budget, seed]
            for budget in budgets
            for seed in seeds
            if (arm, budget, seed) in top and (other, budget, seed) in top
        }
        # a seed's runs have the order of their images in common, so that seeds are what is independent
        by_seed = [[value for (_, of), value in pairs.items() if of == seed] for seed in seeds]
        if len(pairs) < 2 * len(budgets):  # arms of one seed
            continue
        columns = [[value for (at, _), value in pairs.items() if at == budget] for budget in budgets]
        means = [statistics.mean(values) for values in by_seed if values]
        lines.append(f"| {other} | {' | '.join(map(_cell, [*columns, means]))} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:+.1f}" if values else "–"
    low, high = interval(values)
    return f"{statistics.mean(values):+.1f} ({low:+.1f} to {high:+.1f})"
