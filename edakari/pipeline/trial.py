"""Tries what a run or a training will ask of its network and task, on one batch of each split; changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Iterator

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.memory_format import MemoryFormat, memory_format_of, set_memory_format_
from edakari.core.method import name_of, needs_data, needs_training, parts_of
from edakari.core.objective import task_objective
from edakari.core.protocols import Batch, Split
from edakari.criteria import Taylor
from edakari.errors import DataError, EdakariError
from edakari.methods.score import ScorePruning
from edakari.pipeline.context import Run
from edakari.pipeline.distilling import finetuning_objective
from edakari.pipeline.exact import check_zeros
from edakari.pipeline.memory_format import ChosenFormat, chosen_format
from edakari.pipeline.one_batch import Trial
from edakari.pipeline.settings import PruneSettings
from edakari.pipeline.teaching import require_indexed
from edakari.surgery import held_masks
from edakari.tasks.own import Task as OwnTask
from edakari.train.saving_memory import checkpointed
from edakari.train.scope import random_state_kept

__all__ = ["Tried", "tried_format", "try_task", "try_training"]


@dc.dataclass(frozen=True)
class Tried:
    """Seconds of what was tried on one batch; 0 of what was not.

    Args:
        step: the fine-tuning's loss and gradients.
        evaluation: the evaluation.
    """

    step: float = 0.0
    evaluation: float = 0.0


def tried_format(run: Run) -> ChosenFormat:
    """Choose the memory format of a run's networks, and try its task in it; see `try_task`.

    If the task's code fails in a format that was not asked for, it is tried again as the network is.

    Args:
        run: the run.

    Raises:
        EdakariError: see `try_task`.
    """
    if isinstance(run.task, OwnTask) and not run.task.data:
        try_task(run)
        return ChosenFormat("contiguous", "there is no data")
    found = run.processes.agreed(chosen_format(run.dense, run.task, run.example))
    try:
        try_task(run, found.form)
    except EdakariError as error:
        asked = getattr(run.task, "memory_format", "auto") != "auto" or found.form == memory_format_of(run.dense)
        if asked or not isinstance(error.__cause__, RuntimeError):  # as `view` raises; no answer depends on the format
            raise
        try_task(run)
        return ChosenFormat("contiguous", f"its task does not allow channels_last ({type(error).__name__})")
    return found


def try_task(run: Run, form: MemoryFormat | None = None) -> Tried:
    """Try what a run will ask of its task: batches, outputs, loss and gradients, evaluation; one batch of each.

    Only what the run needs is tried. Weights, statistics, modes, random states and the generators of loaders stay as
    they were.

    Args:
        run: the run.
        form: memory format of the network; None leaves it as it is.

    Returns:
        How long a batch took.

    Raises:
        DataError: a split that is needed has no batches, or the task's code fails on its first batch; says what came.
        WrongArgument: the loss is no tensor or has no gradient, or an evaluation gives no numbers, or not the metric.
        ModelError: the loss or its gradient is not finite; names the term, or the parameter.
    """
    settings, trial = run.settings, Trial(run.dense, run.task, run.example, run.processes)
    with checkpointed(run.dense, bool(settings.gradient_checkpointing)):  # a network that has it not is refused here
        pass
    tunes = settings.finetune is not None and settings.finetune.epochs > 0
    step = evaluation = 0.0
    with _undisturbed():
        model = copied(run.dense)
        if form is not None:
            set_memory_format_(model, form)
        needed: dict[Split, bool] = {
            "calibration": needs_data(settings.method) or settings.reconstruct or settings.recalibrate > 0,
            "train": tunes,
            "val": isinstance(run.task, OwnTask) and run.task.judge is not None,
        }
        found: dict[Split, Batch | None] = {}
        for split, asked in needed.items():
            # without data, methods that can do so leave out their training
            trains = tunes or (_trains(run) and found.get("calibration") is not None)
            batch = found[split] = trial.first_batch(split, asked=asked or (split == "train" and trains))
            if split == "calibration":
                trial.finite_outputs(batch)
            elif split == "train" and trains:
                step = _try_step(run, trial, model, batch)
            elif split == "val" and (asked or not isinstance(run.task, OwnTask)):
                evaluation = trial.evaluation(model, batch)
            else:
                trial.outputs(model, split, batch)
        _check_method(trial, settings, model, found["calibration"])
    return Tried(step, evaluation)


def try_training(trial: Trial) -> None:
    """Try what a training without pruning will ask: the network on the example, a step, an evaluation; one batch each.

    Args:
        trial: network and task.

    Raises:
        DataError: see `try_task`.
        WrongArgument: see `try_task`.
        ModelError: weights, outputs, the loss or its gradient are not finite.
        PlanError: a masked weight of a pruned network is not zero.
    """
    check_zeros(trial.dense, held_masks(trial.dense), "the network to train")
    with _undisturbed():
        model = copied(trial.dense)
        trial.finite_outputs(None)
        batch = trial.first_batch("train", asked=True)
        trial.step(model, batch, task_objective(trial.task))
        if trial.judges:
            trial.evaluation(model, trial.first_batch("val", asked=isinstance(trial.task, OwnTask)))


def _trains(run: Run) -> bool:
    """Whether the method trains; a budget in absolute milliseconds is not compared with a time not measured yet."""
    method = run.settings.method
    if needs_training(method) or not isinstance(method, ScorePruning):
        return needs_training(method)
    terms = run.settings.budget.limits.terms
    known = [each.limit if each.relative else each.limit / run.dense_costs[each.cost]
             for each in terms if each.relative or each.cost in run.dense_costs]  # fmt: skip
    return method.cuts(run.task, min(known, default=1.0)).recovery_epochs > 0


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Context that leaves random states as they were."""
    with random_state_kept(), torch.random.fork_rng(devices=[]):
        yield


def _try_step(run: Run, trial: Trial, model: nn.Module, batch: Batch) -> float:
    """Take the loss of the fine-tuning, and its gradients, of the first batch; returns the seconds that this took."""
    tuning = run.settings.finetune
    if tuning is not None and (tuning.teacher == "bank" or tuning.views > 1):
        require_indexed(run).with_indices(tuning.views)  # a task may refuse it
        trial.outputs(model, "train", batch)
        return 0.0  # its objective needs indices, and networks that are not there yet
    with trial.telling("the loss of the fine-tuning"):
        objective = finetuning_objective(run, form=memory_format_of(model))
    return trial.step(model, batch, objective)


def _check_method(trial: Trial, settings: PruneSettings, model: nn.Module, batch: Batch | None) -> None:
    """Ask the method and the settings in it whether the task serves them, by a batch of "calibration"."""
    task, method = trial.task, settings.method
    alone = isinstance(task, OwnTask) and task.loss_of is None and task.teaching is not None and task.teaching.itself
    if alone and isinstance(getattr(method, "criterion", None), Taylor):
        raise DataError(
            f"method {name_of(method)!r} scores by the gradient of the loss, which is 0 where a network "
            "is its own teacher; give Task.of a loss or another teacher, or take a method such as 'magnitude'"
        )
    for _, part in parts_of(method):
        check = getattr(part, "check_task", None)
        if callable(check) and batch is not None:
            with trial.telling(f"method {name_of(method)!r}, tried on the first batch of 'calibration',", batch):
                check(model, task, batch)
