"""The samplers and pruners of a search, by their names."""

from __future__ import annotations

import warnings
from typing import Any

from edakari.core.optional import needs
from edakari.sweeps.settings import SweepSettings

with needs("sweep", "a sweep"):
    import optuna
    from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
    from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

__all__ = ["DIRECTIONS", "search_options"]

DIRECTIONS = ("maximize", "minimize")
"""Directions of a metric and a cost."""
POPULATION = 50


def search_options(settings: SweepSettings) -> dict[str, Any]:
    """Return the sampler, the pruner and the directions of a search.

    Args:
        settings: settings of the sweep.
    """
    goal = settings.goal
    several = goal is not None and goal.minimize is not None
    return {
        "sampler": _sampler(settings.sampler or ("nsga2" if several else "tpe"), settings),
        "pruner": _pruner(settings.pruner),
        "directions": DIRECTIONS if several else DIRECTIONS[:1],
    }


def _sampler(name: str, settings: SweepSettings) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return RandomSampler(settings.seed)
        if name == "nsga2":
            return NSGAIISampler(population_size=max(min(POPULATION, settings.trials // 4), 2), seed=settings.seed)
        # without the liar, several workers would try almost the same point at once
        return TPESampler(seed=settings.seed, multivariate=True, constant_liar=True)


def _pruner(name: str) -> BasePruner:
    if name == "median":
        return MedianPruner(n_startup_trials=3)
    return SuccessiveHalvingPruner() if name == "halving" else NopPruner()
