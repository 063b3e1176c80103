"""Checks a run without pruning: recipe, packages, network, data and budget; and estimates its duration."""

from __future__ import annotations

import dataclasses as dc
import itertools
import time
from collections.abc import Mapping, Sized

import numpy as np
import torch

from edakari.core.budget import Budget
from edakari.core.copying import copied
from edakari.core.file_errors import file_errors
from edakari.core.objective import task_objective
from edakari.cost import bind
from edakari.models import check_trusted
from edakari.pipeline import processes
from edakari.pipeline.context import RecipeSubject, Run, silent
from edakari.pipeline.load import check_weights
from edakari.pipeline.preflight import check_pruning
from edakari.pipeline.settings import Recipe
from edakari.pipeline.store import MemoryStore
from edakari.pipeline.trial import try_task
from edakari.solve.spend import reachable

__all__ = ["Checked", "check_recipe"]

STEPS = 3
"""Number of timed batches of a training step, after one warm-up batch."""
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
            budget below what the groups can reach.
    """
    check_trusted(recipe.model, "the recipe", trust_code=recipe.trust_code)
    check_weights(recipe)
    together = processes.started(cpu=recipe.device == "cpu")
    check_pruning(recipe, together, lambda stage: False)
    run = Run(recipe, RecipeSubject(recipe), MemoryStore(), together, silent)
    counted = Budget(tuple(term for term in recipe.budget.terms if term.cost != "latency"))
    limits = {}
    if counted.terms:
        bound = bind(counted, run.graph)
        limits = {term.cost: limit for term, (_, limit) in zip(counted.terms, bound.terms, strict=True)}
        if not run.prunes_tokens:
            reachable(run.groups, {group.name: np.zeros(group.size + 1) for group in run.groups}, bound)
    try_task(run)
    return Checked(dict(run.dense_costs), limits, _seconds(run))


def _seconds(run: Run) -> dict[str, float]:
    train, val = run.task.batches("train"), run.task.batches("val")
    model, objective = copied(run.dense), task_objective(run.task)
    step, look = [], []
    for batch in itertools.islice(train, STEPS + 1):
        start = time.perf_counter()
        with torch.no_grad():
            run.task.outputs(model, batch)
        middle = time.perf_counter()
        loss = torch.stack([term.reshape(()) for term in objective(model, batch).values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        look.append(middle - start)
        step.append(time.perf_counter() - middle)
    if len(step) > 1:
        step, look = step[1:], look[1:]
    found = {}
    if isinstance(val, Sized):
        found["evaluation"] = EVALUATIONS * len(val) * float(np.median(look))
    finetune = getattr(run.settings, "finetune", None)
    if finetune is not None and isinstance(train, Sized):
        found["fine-tuning"] = finetune.epochs * len(train) * float(np.median(step))
    return found
