"""Checks a run without pruning: recipe, packages, network, data and budget; and estimates its duration."""

from __future__ import annotations

import dataclasses as dc
import itertools
import time
from collections.abc import Iterable, Mapping, Sized

import numpy as np
import torch

from edakari.core.budget import Budget, is_latency
from edakari.core.copying import copied
from edakari.core.file_errors import file_errors
from edakari.core.objective import task_objective
from edakari.core.protocols import Batch
from edakari.cost import bind
from edakari.models import check_trusted
from edakari.pipeline import processes
from edakari.pipeline.context import RecipeSubject, Run, silent
from edakari.pipeline.feasible import require_feasible, require_reachable
from edakari.pipeline.load import check_weights
from edakari.pipeline.preflight import check_pruning
from edakari.pipeline.settings import Recipe
from edakari.pipeline.store import MemoryStore
from edakari.pipeline.trial import Tried, try_task
from edakari.train.terms import loss_terms, total_loss

__all__ = ["Checked", "check_recipe"]

STEPS = 3
"""Number of timed batches of a training step, after one warm-up batch."""
QUICK = 2.0
"""Seconds of the trial's batches up to which more batches are timed: slower ones need neither warm-up nor repeats."""
EVALUATIONS = 3
"""Number of evaluated networks in a run: the unpruned, the pruned and the fine-tuned one."""


@dc.dataclass(frozen=True)
class Checked:
    """Result of a check that found no problem; a problem raises an error.

    Args:
        costs: costs of the unpruned network, by name.
        limits: limits of the budget as numbers; a latency is not measured.
        seconds: expected duration of each step on this machine, at least, s. The method's own training is not included.
    """

    costs: Mapping[str, float]
    limits: Mapping[str, float]
    seconds: Mapping[str, float]


@file_errors()
def check_recipe(recipe: Recipe) -> Checked:
    """Check all that a run needs, without running it.

    Args:
        recipe: recipe to check.

    Raises:
        EdakariError: something is wrong: packages, code that is not trusted, the network, its weights, its data, or a
            budget below what the groups and the method can reach.
    """
    recipe = dc.replace(recipe, budget=dc.replace(recipe.budget, drop=None))  # for which several budgets are tried
    check_trusted(recipe.model, "the recipe", trust_code=recipe.trust_code)
    check_weights(recipe)
    together = processes.started(cpu=recipe.device == "cpu")
    check_pruning(recipe, together, lambda stage: False)
    run = Run(recipe, RecipeSubject(recipe), MemoryStore(), together, silent)
    counted = Budget(tuple(term for term in recipe.budget.terms if not is_latency(term.cost)))
    limits = {}
    if counted.terms:
        bound = bind(counted, run.graph)
        limits = {term.cost: limit for term, (_, limit) in zip(counted.terms, bound.terms, strict=True)}
    require_reachable(run)
    tried = try_task(run)
    require_feasible(run)
    return Checked(dict(run.dense_costs), limits, _seconds(run, tried))


def _seconds(run: Run, tried: Tried) -> dict[str, float]:
    """Estimate durations by the trial's batches; where those were quick, by a few more."""
    train, val = run.task.batches("train"), run.task.batches("val")
    finetune = run.settings.finetune
    tuned = finetune is not None and finetune.epochs > 0
    if tried.step + tried.evaluation < QUICK:
        tried = _timed(run, train, steps=tuned)
    found = {}
    if isinstance(val, Sized) and tried.evaluation > 0:
        found["evaluation"] = EVALUATIONS * len(val) * tried.evaluation
    if finetune is not None and tuned and isinstance(train, Sized) and tried.step > 0:
        found["fine-tuning"] = finetune.epochs * len(train) * tried.step
    return found


def _timed(run: Run, batches: Iterable[Batch], *, steps: bool) -> Tried:
    """Median seconds of the outputs, and of the loss and gradients, of some batches."""
    model, objective = copied(run.dense), task_objective(run.task)
    look, step = [], []
    for batch in itertools.islice(batches, STEPS + 1):
        start = time.perf_counter()
        with torch.no_grad():
            run.task.outputs(model, batch)
        middle = time.perf_counter()
        if steps:
            total_loss(loss_terms(objective(model, batch))).backward()  # type: ignore[no-untyped-call]
        look.append(middle - start)
        step.append(time.perf_counter() - middle)
    if not look:
        return Tried()
    if len(step) > 1:
        step, look = step[1:], look[1:]
    return Tried(float(np.median(step)) if steps else 0.0, float(np.median(look)))
