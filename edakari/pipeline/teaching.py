"""What a pruned network is fine-tuned on, and who teaches it: nobody, the dense network, or a memory bank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edakari.core.copying import copied
from edakari.core.method import Outcome
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Batch, IndexedTask, Objective
from edakari.criteria import Magnitude
from edakari.errors import RecipeError
from edakari.pipeline.context import Run
from edakari.surgery import apply
from edakari.train import BankTeaching, bank_in, distillation, task_objective

__all__ = ["networks_between", "training"]


def training(run: Run, outcome: Callable[[], Outcome]) -> tuple[Objective, Iterable[Batch]]:
    """Objective and batches of a run's fine-tuning.

    Args:
        run: whose recipe says what is wanted.
        outcome: gives what the method gave, should it be needed: its own objective, or teachers of a bank.

    Raises:
        RecipeError: the task's examples have no numbers, and views or a bank are asked for.
    """
    task, recipe = run.task, run.recipe
    batches = task.batches("train")
    if recipe.teach.views > 1 or recipe.teach.teacher == "bank":
        numbered = _numbered(run)
        batches = numbered.with_indices(recipe.teach.views)
        if recipe.teach.teacher == "bank":
            return _taught_by_bank(run, numbered, outcome), batches
    if run.folder.read("prune")["own_finetune"]:
        own = outcome().finetune
        if own is not None:
            return own, batches
    if recipe.distill.weight > 0:
        teacher = copied(run.dense)
        return distillation(task, teacher, recipe.distill.weight, recipe.distill.temperature), batches
    return task_objective(task), batches


def networks_between(plan: Plan, model: nn.Module, run: Run, count: int) -> list[nn.Module]:
    """Networks on the straight way from the dense network to a plan, the dense one first and the plan's left out.

    Of the channels that the plan removes from a group, network k of K keeps those of largest weights, in the share
    (K - k)/K. Other edits than those of channels are left out.

    Args:
        plan: made for the network.
        model: the dense network.
        run: whose graph is the network's.
        count: of networks.
    """
    scores = Magnitude().score(model, run.graph)
    networks = []
    for place in range(count):
        edits = []
        for edit in plan.edits:
            if isinstance(edit, KeepChannels) and place > 0:
                ranks = np.argsort(-scores[edit.group].numpy(), kind="stable")
                gone = [int(index) for index in ranks if int(index) not in {*edit.indices}]
                more = gone[: round(len(gone) * (count - place) / count)]
                edits.append(KeepChannels(edit.group, tuple(sorted((*edit.indices, *more)))))
        networks.append(apply(model, Plan(tuple(edits), plan.fingerprint, plan.inputs), run.graph))
    return networks


def _taught_by_bank(run: Run, task: IndexedTask, outcome: Callable[[], Outcome]) -> Objective:
    settings, made = run.recipe.bank, run.folder.read("prune")

    def teachers() -> Sequence[nn.Module]:
        if made["own_teachers"]:
            own = outcome().teachers
            if own is not None:
                return own(settings.teachers)
        return networks_between(run.plan, run.dense, run, settings.teachers)

    identity: dict[str, Any] = {
        "teachers": settings.teachers,
        "plan": made["plan"],
        "method": run.recipe.content["method"],
        "seed": run.recipe.seed,
        "weights": run.folder.read("trace")["weights"],
    }
    folder = Path(settings.folder) if settings.folder else run.folder.work("bank")
    bank = bank_in(folder, task, identity, teachers)
    return BankTeaching(task, bank, settings.temperature, settings.gate, settings.share)


def _numbered(run: Run) -> IndexedTask:
    if not isinstance(run.task, IndexedTask):
        raise RecipeError(
            f"finetune.views and finetune.teacher=bank need a task of classes whose examples have numbers, not a "
            f"{type(run.task).__name__}; leave them out"
        )
    return run.task
