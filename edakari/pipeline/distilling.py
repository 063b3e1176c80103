"""The loss of the fine-tuning, and the comparison with a teacher in it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Layout
from edakari.core.memory_format import MemoryFormat, set_memory_format_
from edakari.core.objective import task_objective
from edakari.core.plan import Plan
from edakari.core.protocols import Objective
from edakari.core.user_code import made_by
from edakari.errors import RecipeError
from edakari.graph.cutting import indices_of
from edakari.pipeline.context import Run, frozen_teacher
from edakari.surgery.applying import masks_of
from edakari.tasks.own import Task as OwnTask
from edakari.tasks.teaching import Teacher
from edakari.train import distillation

__all__ = ["finetuning_objective", "kept_features", "teacher_from"]


def finetuning_objective(run: Run, plan: Plan | None = None, form: MemoryFormat = "contiguous") -> Objective:
    """Return the loss of the fine-tuning without a memory bank: the task's, and the comparison with a teacher.

    Args:
        run: run with the settings.
        plan: plan of the network that is trained; None if it is the dense network itself.
        form: memory format of the teacher.

    Raises:
        RecipeError: `finetune.teacher` gives no teacher.
        UnknownName: there is no module of the name in `features`.
    """
    task, tuning = run.task, run.settings.finetune
    named = tuning.distill.features if tuning is not None else {}
    taught = task.teaching.features if isinstance(task, OwnTask) and task.teaching is not None else {}
    kept = kept_features(run.graph, plan, {*named, *taught}) if plan is not None else {}
    if isinstance(task, OwnTask):
        task = task.narrowed(kept)
        if task.teaching is not None and task.teaching.itself and isinstance(task.teaching.teacher, nn.Module):
            set_memory_format_(task.teaching.teacher, form)  # the run's own copy
    if tuning is None or not tuning.distill.active:
        return task_objective(task)
    teacher: Teacher = run.dense if tuning.teacher in (None, "dense") else teacher_from(tuning.teacher)
    distill = tuning.distill
    if isinstance(teacher, nn.Module):
        teacher = frozen_teacher(teacher, run.example, distill.features)
        set_memory_format_(teacher, form)
    return distillation(task, teacher, distill.weight, distill.temperature, features=distill.features, kept=kept)


def teacher_from(name: str) -> Teacher:
    """Call the function of a user's file that gives a teacher.

    Args:
        name: "path/to/file.py:NAME".

    Raises:
        RecipeError: the file cannot be run, or its function gives something that cannot be called with a batch.
    """
    where = f"finetune.teacher {name!r}"
    made = made_by(name, where, "teacher", RecipeError)
    if not callable(made) or isinstance(made, type):
        raise RecipeError(
            f"{where} gave a {type(made).__name__}; it gives a network, or a function from a batch to outputs"
        )
    teacher: Teacher = made
    return teacher


def kept_features(graph: Graph, plan: Plan, modules: Iterable[str]) -> dict[str, list[tuple[torch.Tensor | None, ...]]]:
    """Find the indices that a plan keeps of the tensors that modules return, in each dimension; None is all.

    Args:
        graph: graph of the dense network.
        plan: plan for it.
        modules: dotted paths of the modules.
    """
    masks, wanted = masks_of(plan, graph), set(modules)
    known: dict[Layout, torch.Tensor | None] = {}
    found: dict[str, list[tuple[torch.Tensor | None, ...]]] = {}
    for call in graph.calls:
        if call.module in wanted:
            found.setdefault(call.module, []).extend(indices_of(each, masks, known) for each in call.outputs)
    return found
