"""Tries a run's task on one batch of each split, before anything that takes long; changes nothing."""

from __future__ import annotations

import contextlib
import copy
import dataclasses as dc
import numbers
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from edakari.core.arguments import found_as
from edakari.core.copying import copied
from edakari.core.finite import finite, require_finite
from edakari.core.method import name_of, needs_data, needs_training, parts_of
from edakari.core.modes import judging
from edakari.core.protocols import Batch, Split, Task
from edakari.core.user_code import cause
from edakari.criteria import Taylor
from edakari.errors import DataError, EdakariError, ModelError, WrongArgument
from edakari.graph import call
from edakari.pipeline.context import Run
from edakari.pipeline.distilling import finetuning_objective
from edakari.pipeline.teaching import require_indexed
from edakari.tasks.own import Task as OwnTask
from edakari.train.scope import random_state_kept
from edakari.train.terms import loss_terms, total_loss

__all__ = ["Tried", "try_task"]

SHOWN = 6
"""Entries of a batch that an error describes."""


@dc.dataclass(frozen=True)
class Tried:
    """Seconds of what was tried on one batch; 0 of what was not.

    Args:
        step: the fine-tuning's loss and gradients.
        evaluation: the evaluation.
    """

    step: float = 0.0
    evaluation: float = 0.0


def try_task(run: Run) -> Tried:
    """Try what a run will ask of its task: batches, outputs, loss and gradients, evaluation; one batch of each.

    Only what the run needs is tried. Weights, statistics, modes, random states and the generators of loaders stay as
    they were.

    Args:
        run: the run.

    Returns:
        How long a batch took.

    Raises:
        DataError: a split that is needed has no batches, or the task's code fails on its first batch; says what came.
        WrongArgument: the loss is no tensor or has no gradient, or an evaluation gives no numbers, or not the metric.
        ModelError: the loss or its gradient is not finite; names the term, or the parameter.
    """
    settings = run.settings
    tunes = settings.finetune is not None and settings.finetune.epochs > 0
    step = evaluation = 0.0
    with random_state_kept(), torch.random.fork_rng(devices=[]):
        model = copied(run.dense)
        needed: dict[Split, bool] = {
            "calibration": needs_data(settings.method) or settings.reconstruct or settings.recalibrate > 0,
            "train": tunes,
            "val": isinstance(run.task, OwnTask) and run.task.judge is not None,
        }
        found: dict[Split, Batch | None] = {}
        for split, asked in needed.items():
            batch = found[split] = _first_batch(run, split)
            # without data, methods that can do so leave out their training
            trains = tunes or (needs_training(settings.method) and found["calibration"] is not None)
            if batch is None and (asked or (split == "train" and trains)):
                raise DataError(f"{_where(run)}: there are no batches in the split {split!r}, which this run needs")
            if split == "train" and trains:
                step = _try_training(run, model, batch)
            elif split == "val" and (asked or not isinstance(run.task, OwnTask)):
                evaluation = _try_evaluation(run, model, batch)
            else:
                _try_outputs(run, model, split, batch)
        _check_method(run, model, found["calibration"])
    return Tried(step, evaluation)


def _where(run: Run) -> str:
    return "Task.of" if isinstance(run.task, OwnTask) else f"task {type(run.task).__name__}"


def _first_batch(run: Run, split: Split) -> Batch | None:
    with _told(run, f"reading the first batch of {split!r}"):
        batches = run.task.batches(split)
        with _loader_kept(batches):
            iterator = iter(batches)
            try:
                return next(iterator, None)
            finally:
                del iterator  # its workers end with it


def _try_outputs(run: Run, model: nn.Module, split: Split, batch: Batch | None) -> None:
    """Run the network on a batch; on the example where there is no calibration data."""
    with _told(run, f"the network, run on the first batch of {split!r},", batch):
        if split == "calibration":
            again = call if batch is None else run.task.outputs
            given = run.example if batch is None else batch
            require_finite(run.dense, lambda: again(run.dense, given), "the dense network")
        elif batch is not None:
            with judging(model):
                run.task.outputs(model, batch)


def _try_training(run: Run, model: nn.Module, batch: Batch) -> float:
    """Take the loss of the fine-tuning, and its gradients, of the first batch; returns the seconds that this took."""
    tuning = run.settings.finetune
    if tuning is not None and (tuning.teacher == "bank" or tuning.views > 1):
        require_indexed(run)
        _try_outputs(run, model, "train", batch)
        return 0.0  # its objective needs indices, and networks that are not there yet
    start = time.perf_counter()
    with _told(run, "the loss of the first training batch", batch), torch.enable_grad():
        model.train()
        terms = loss_terms(finetuning_objective(run)(model, batch))
    _require_finite_terms(run, terms)
    with _told(run, "the gradient of the first training batch's loss"):
        total_loss(terms).backward()  # type: ignore[no-untyped-call]
    grads = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    if not grads:
        raise ModelError(
            f"{_where(run)}: no parameter of the network gets a gradient from the loss; compute it from the network "
            "that the loss is given"
        )
    wrong = next((name for name, grad in grads.items() if not finite(grad)), None)
    if wrong is not None:
        raise ModelError(
            f"{_where(run)}: the loss of the first training batch is finite ({_shown(terms)}), but its gradient in "
            f"{wrong!r} is not; a square root or a logarithm at 0 is a usual reason"
        )
    return time.perf_counter() - start


def _require_finite_terms(run: Run, terms: Mapping[str, torch.Tensor]) -> None:
    wrong = [name for name, term in terms.items() if not finite(term)]
    if wrong:
        raise ModelError(
            f"{_where(run)}: the loss {wrong[0]!r} of the first training batch is {float(terms[wrong[0]].detach())}; "
            "check the batch (are its values and labels finite and in range?) and the loss"
        )


def _shown(terms: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())


def _check_method(run: Run, model: nn.Module, batch: Batch | None) -> None:
    """Ask the method and the settings in it whether the task serves them, by a batch of "calibration"."""
    task, method = run.task, run.settings.method
    alone = isinstance(task, OwnTask) and task.loss_of is None and task.teaching is not None and task.teaching.itself
    if alone and isinstance(getattr(method, "criterion", None), Taylor):
        raise DataError(
            f"method {name_of(method)!r} scores by the gradient of the loss, which is 0 where a network "
            "is its own teacher; give Task.of a loss or another teacher, or take a method such as 'magnitude'"
        )
    for _, part in parts_of(method):
        check = getattr(part, "check_task", None)
        if callable(check) and batch is not None:
            with _told(run, f"method {name_of(method)!r}, tried on the first batch of 'calibration',", batch):
                check(model, task, batch)


def _try_evaluation(run: Run, model: nn.Module, batch: Batch | None) -> float:
    """Evaluate on one batch, or as the run will where a task cannot do with one; what comes must be numbers.

    Returns:
        Seconds of one batch; 0 if there is none.
    """
    task, found, start = run.task, None, time.perf_counter()
    if batch is not None:
        try:
            found = (_of_one_batch(task, batch).evaluate(model),)
        except WrongArgument:  # no numbers
            raise
        except Exception:
            found = None  # it may ask for more than one batch
    seconds = 0.0 if found is None else time.perf_counter() - start
    if not all(run.processes.gathered_objects(found is not None)):  # an evaluation may need all processes
        _try_outputs(run, model, "val", batch)
        with _told(run, "evaluate(network, batches)" if isinstance(task, OwnTask) else "evaluate(network)", batch):
            found = (task.evaluate(model),)
    if found is not None and not isinstance(task, OwnTask):  # one that is said in Python is checked where it is asked
        _require_figures(run, *found)
    return seconds


def _of_one_batch(task: Task, batch: Batch) -> Task:
    """Return a copy of a task whose validation data is one batch."""
    if isinstance(task, OwnTask):
        return dc.replace(task, data={**task.data, "val": (batch,)}, seen=[])
    short: Any = copy.copy(task)
    object.__setattr__(short, "batches", lambda split: (batch,))  # whether it is frozen or not
    return cast(Task, short)


def _require_figures(run: Run, found: Any) -> None:
    named = isinstance(found, Mapping)
    wrong = [(name, value) for name, value in found.items() if not _number(value)] if named else []
    if not named or wrong:
        given = f"{wrong[0][0]!r} is {found_as(wrong[0][1])}" if wrong else f"gave {found_as(found)}"
        raise WrongArgument(f"{_where(run)}: evaluate(network) gives a dict of named numbers, but {given}")
    if found and run.task.metric not in found:
        raise WrongArgument(
            f"{_where(run)}: its metric {run.task.metric!r} is none of the numbers that evaluate(network) gives: "
            f"{', '.join(map(str, found))}"
        )


def _number(value: Any) -> bool:
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.size == 1 if isinstance(value, np.ndarray) else value.numel() == 1
    return isinstance(value, numbers.Real)


@contextlib.contextmanager
def _told(run: Run, what: str, batch: Batch | None = None) -> Iterator[None]:
    """Context that turns errors of the user's own code into one that says where they came from and what was given."""
    try:
        yield
    except (EdakariError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        given = "" if batch is None else f". The batch is {described(batch)}; the example is {described(run.example)}"
        raise DataError(f"{_where(run)}: {what} fails: {cause(error)}{given}") from error


def described(value: Any, depth: int = 3) -> str:
    """Describe a batch by the forms of its tensors.

    Args:
        value: tensors in tuples, lists and mappings.
        depth: number of levels that are described.
    """
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if depth and isinstance(value, Mapping):
        entries = [f"{key!r}: {described(each, depth - 1)}" for key, each in [*value.items()][:SHOWN]]
        return "{" + ", ".join(entries) + (", …" if len(value) > SHOWN else "") + "}"
    if depth and isinstance(value, list | tuple):
        entries = [described(each, depth - 1) for each in value[:SHOWN]]
        inside = ", ".join(entries) + (", …" if len(value) > SHOWN else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


@contextlib.contextmanager
def _loader_kept(batches: Iterable[Batch]) -> Iterator[None]:
    """Context that restores the generators of a `DataLoader`, so that its order in training stays the same."""
    owners: list[Any] = [batches, getattr(batches, "batches", None)]
    owners += [getattr(each, "batch_sampler", None) for each in owners]
    owners += [getattr(each, "sampler", None) for each in owners]
    found = {id(each.generator): each.generator for each in owners
             if isinstance(getattr(each, "generator", None), torch.Generator)}  # fmt: skip
    states = [(generator, generator.get_state()) for generator in found.values()]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
