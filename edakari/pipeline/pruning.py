"""`edakari.prune`: prunes a given network in one call, with the stages of a recipe's run, in memory or in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import nn

from edakari.core.arguments import found_as, require
from edakari.core.budget import Budget
from edakari.core.choosing import Groups
from edakari.core.method import Method, method_named, name_of, needs_data
from edakari.core.networks import unwrapped
from edakari.core.protocols import Fit, Schedule
from edakari.core.protocols import Task as AnyTask
from edakari.errors import DataError, UnknownName, WrongArgument
from edakari.pipeline.context import Notify
from edakari.pipeline.recipe import recipe_from
from edakari.pipeline.runner import Result, run_given
from edakari.pipeline.settings import (
    FinetuneSettings,
    LatencySettings,
    MeasureSettings,
    PruneSettings,
    QuantizeSettings,
    Recipe,
)
from edakari.tasks.own import Task
from edakari.train.compiling import Compile

__all__ = ["prune"]

CALL = "prune(model, example_or_task, budget)"
PARTS = ("example", "batches", "outputs", "loss", "evaluate")
"""Functions that make a task."""


BATCHES = 16


class Others(TypedDict, total=False):
    """Further keyword arguments of `prune`."""

    recalibrate: int
    reconstruct: bool
    latency: LatencySettings
    measure: MeasureSettings
    quantize: QuantizeSettings
    fit: Fit | str | Mapping[str, Any]
    export: Sequence[str]
    device: Literal["auto", "cpu"]
    compile: Compile
    gradient_checkpointing: bool
    sync_bn: bool
    tf32: bool
    report_to: Sequence[str]
    notify: Notify
    overwrite: bool


def prune(
    model: nn.Module,
    example_or_task: Any,
    budget: Budget | str,
    method: str | Mapping[str, Any] | Method = "magnitude",
    *,
    finetune: Schedule | None = None,
    groups: Groups | Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    **others: Unpack[Others],
) -> Result:
    """Prune a trained network to a budget.

        small = edakari.prune(model, example, "macs<=50%").model

    The cut network is compared with its masked twin and with the budget before it is returned. Arguments that do not
    fit together raise an error before anything is computed.

    Args:
        model: trained network; it does not change.
        example_or_task: an input as `edakari.trace` takes it (a tensor, a tuple of positional arguments, or a dict of
            keyword arguments), for methods that need no data; or a task, such as `edakari.Task.of(example, train=...)`.
        budget: limits of the pruned network's costs, such as "macs<=50%" or "latency<=12ms, size<=5MB". A latency is
            measured on this machine, and met by measurement.
        method: name of a method (`edakari methods` lists them), a dict of its name and settings as in a recipe, or the
            method itself.
        finetune: training of the pruned network; None trains nothing.
        groups: groups that may be cut, and their sizes, such as `Groups(exclude=("fc",), widths={"conv1": 32})`. Widths
            become multiples of 8 if the budget has a latency, unless `round_to` says otherwise.
        output: folder for results, a report, and what is needed to resume after an interruption; another call with the
            same arguments resumes. None stores results in memory.
        seed: seed of everything random.
        others: `recalibrate` (number of batches of the task's calibration data from which batch norms recompute their
            statistics after the cut; 0 leaves the statistics; 16 by default if the task has such data), `reconstruct`
            (refit the layers after a cut to that data), `fit` (training loop in place of edakari's own: a function or
            object that keeps the promises of `edakari.core.protocols.Fit`, such as `edakari.integrations.timm.fit()`,
            or a name as in a recipe), `latency` (a `LatencySettings`: where and how a latency in the budget is
            measured), `measure` (a `MeasureSettings`: latency before and after), `quantize` (a `QuantizeSettings`: the
            finished network in int8), `export` (formats to write, such as
            `["onnx"]`; needs `output`), `device` ("auto" or "cpu"), `compile` ("default" or
            "reduce-overhead": the fine-tuning uses `torch.compile`), `gradient_checkpointing` (True saves memory in
            trainings of networks of timm and transformers), `sync_bn` (True: batch norms see the batch parts of all
            processes), `tf32` (False keeps a GPU from it), `report_to` (trackers such as `["tensorboard"]`; needs
            `output`), `notify` (callback for the progress of the stages),
            `overwrite` (start again in `output`).

    Returns:
        The pruned network in evaluation mode (`model`), its plan, costs and metrics; prints as a table.

    Raises:
        UnknownName: there is no such method; the message names the nearest one.
        BudgetError: the budget cannot be read, or cannot be reached (`InfeasibleBudget`).
        DataError: the method or another argument needs data that the task does not have.
        ModelError: the network cannot be traced with this example.
        EdakariError: something else is wrong with the input.
    """
    unknown = others.keys() - Others.__annotations__.keys()
    if unknown:
        raise UnknownName("argument of prune", min(unknown), Others.__annotations__)
    require(CALL, budget=(budget, (Budget, str)), output=(output, (str, Path, type(None))))
    network, chosen = unwrapped(model, CALL), _method(method)
    task = _task(example_or_task)
    parsed = Budget.parse(budget) if isinstance(budget, str) else budget
    asked: dict[str, Any] = {**others}
    run_only = {key: asked.pop(key) for key in ("notify", "overwrite") if key in asked}
    for key in ("export", "report_to"):
        if asked.get(key) and output is None:
            raise WrongArgument(f"{CALL}: {key} writes files, so it needs a folder; pass output='a/folder' too")
    has_data = _has_data(task)
    asked.setdefault("recalibrate", BATCHES if has_data else 0)
    settings = PruneSettings(
        method=chosen,
        budget=parsed,
        groups=_groups(groups, parsed),
        finetune=_finetuning(finetune),
        seed=seed,
        **asked,
    )
    if not has_data:
        _refuse_without_data(settings, method if isinstance(method, str) else name_of(chosen))
    return run_given(network, task, settings, folder=output, **run_only)


def _method(method: Any) -> Method:
    if isinstance(method, str):
        return method_named(method)()
    if isinstance(method, Mapping):
        return _as_in_a_recipe("method", method).method
    if isinstance(method, type) or not isinstance(method, Method):
        raise WrongArgument(f"{CALL}: method takes a name, a dict with one, or a method, but got {found_as(method)}")
    return method


def _as_in_a_recipe(key: str, content: Any, budget: str = "macs<=100%") -> Recipe:
    """Check a part of a recipe; placeholders stand for the parts that are given otherwise."""
    return recipe_from({"model": "given", "method": "magnitude", "budget": budget, key: content}, CALL)


def _task(given: Any) -> AnyTask:
    """Return a task as it is; make a task without data from an example."""
    if isinstance(given, type):
        raise WrongArgument(f"{CALL}: takes an example or a task, but got {found_as(given)}")
    if all(callable(getattr(given, part, None)) for part in PARTS):
        task: AnyTask = given
        return task
    if not isinstance(given, torch.Tensor | list | tuple | Mapping):
        raise WrongArgument(f"{CALL}: an example is a tensor, a tuple or a dict, but got {found_as(given)}")
    return Task.of(given)


def _groups(groups: Any, budget: Budget) -> Groups:
    if groups is None:
        return Groups()
    if isinstance(groups, Mapping):
        return _as_in_a_recipe("groups", groups, str(budget)).groups
    require(CALL, groups=(groups, Groups))
    chosen: Groups = groups
    return chosen


def _finetuning(schedule: Any) -> FinetuneSettings | None:
    if schedule is None or isinstance(schedule, FinetuneSettings):
        return schedule
    require(CALL, finetune=(schedule, Schedule))
    return FinetuneSettings.of(schedule)


def _has_data(task: AnyTask) -> bool:
    if isinstance(task, Task):  # without reading a batch, which a user's loader would count
        return "calibration" in task.data
    return next(iter(task.batches("calibration")), None) is not None


def _refuse_without_data(settings: PruneSettings, name: str) -> None:
    """Refuse settings that need data, for a task that has none."""
    asking = {
        f"method {name!r}": needs_data(settings.method),
        "a limit on what a metric loses": settings.budget.drop is not None,
        "finetune": settings.finetune is not None and settings.finetune.epochs > 0,
        "recalibrate": settings.recalibrate > 0,
        "reconstruct": settings.reconstruct,
        "quantisation to int8": settings.quantize is not None,
    }
    found = [what for what, asks in asking.items() if asks]
    if found:
        raise DataError(
            f"{CALL}: {' and '.join(found)} cannot do without data; pass a task instead of the example: "
            "edakari.Task.of(example, train=..., loss=...)"
        )
