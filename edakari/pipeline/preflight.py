"""Finds all requests of a recipe or a call that are not possible on this machine, before anything runs."""

from __future__ import annotations

import dataclasses as dc
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from edakari.core.file_errors import require_writable
from edakari.core.ledger import MARKER
from edakari.core.method import problems_of
from edakari.core.optional import needs
from edakari.core.processes import Processes
from edakari.core.protocols import Precision, Schedule
from edakari.errors import RecipeError, RunFolderError, SettingsError
from edakari.export import EXPORTERS
from edakari.export.int8 import QuantizeSettings
from edakari.latency.runnable import faults
from edakari.latency.runtime_protocols import RemoteRuntime
from edakari.latency.runtimes import option_faults, runtime_named
from edakari.latency.timing import RunSettings
from edakari.pipeline.latency_settings import LatencySettings, key_of
from edakari.pipeline.masked import sparsity_problems
from edakari.pipeline.problems import Problem, message
from edakari.pipeline.settings import PruneSettings, Recipe
from edakari.pipeline.tracking import missing_tracker
from edakari.train.fits import fit_name
from edakari.train.optim import check_optimizer
from edakari.train.sync_norms import require_sync_norms

__all__ = ["check_pruning", "check_training", "run_settings"]


def check_pruning(asked: PruneSettings, processes: Processes, done: Callable[[str], bool]) -> None:
    """Refuse a recipe with which this machine cannot prune.

    Args:
        asked: recipe, or settings of a call, to check.
        processes: processes that take part.
        done: function that says whether a stage is finished; requirements of finished stages are not checked.

    Raises:
        RecipeError: lists what is not possible, with keys and lines.
        MissingPackage: something is to be trained, and the packages for it are not installed.
    """
    problems: list[Problem] = []
    if not (asked.budget.terms or asked.budget.sparsity):
        problems.append(Problem("budget", "is missing, so there is nothing to prune to; `edakari train` only trains"))
    if not done("prune"):
        problems += _trainings(asked)
        problems += sparsity_problems(asked)
        found = problems_of(asked.method, asked.budget)
        problems += [Problem(f"method.{key}", text) for key, text in found.items()]
    if not done("finetune"):
        if asked.finetune:
            problems += _precisions(asked, {"finetune.precision": asked.finetune.precision})
            problems += _optimizer("finetune", asked.finetune)
        problems += [*_own_loop(asked), *_sync_norms(asked, processes), *_batches(asked, processes), *_folders(asked)]
    if not done("measure"):
        problems += _runtimes(asked)
    problems += _trackers(asked)
    for kind in () if done("export") else asked.export:
        missing = EXPORTERS.named(kind).missing()
        if missing:
            problems.append(Problem("export", f"to {kind} needs {missing}"))
    _raise(problems, asked)


def check_training(recipe: Recipe, processes: Processes) -> None:
    """Refuse a recipe whose dense network this machine cannot train.

    Raises:
        RecipeError: lists what is not possible, with keys and lines.
    """
    assert recipe.train is not None
    precisions = _precisions(recipe, {"train.precision": recipe.train.precision})
    optimizers = _optimizer("train", recipe.train)
    loop = [*_own_loop(recipe), *_sync_norms(recipe, processes)]
    _raise([*precisions, *optimizers, *loop, *_batches(recipe, processes), *_trackers(recipe)], recipe)


def _trackers(asked: PruneSettings) -> Iterator[Problem]:
    for index, name in enumerate(asked.report_to):
        missing = missing_tracker(name)
        if missing:
            yield Problem(f"report_to[{index}]", missing)


def run_settings(settings: LatencySettings, quantize: QuantizeSettings | None = None) -> RunSettings:
    """Settings of the runtime of a latency budget.

    Args:
        settings: settings of the latency.
        quantize: settings of the quantisation; only an int8 latency uses them.
    """
    excluded = quantize.exclude if quantize is not None and settings.precision == "int8" else ()
    return RunSettings(
        threads=settings.threads,
        precision=settings.precision,
        exclude=excluded,
        memory_format=settings.memory_format,
        device=settings.device,
        warmup=settings.warmup,
        calls=settings.calls,
    )


def _raise(problems: list[Problem], asked: PruneSettings) -> None:
    if problems and isinstance(asked, Recipe):
        raise RecipeError(message(problems, asked.where, asked.lines))
    if problems:
        raise RecipeError(message(problems, "prune(model, example_or_task, budget)", {}))


def _trainings(asked: PruneSettings) -> list[Problem]:
    """Problems of the trainings that a method does: their precisions and optimizers, wherever settings hold them."""
    parts = dict(_parts("method", asked.method))
    precisions = {f"{key}.{name}": getattr(part, name) for key, part in parts.items() for name in _precisions_of(part)}
    schedules = {key: part for key, part in parts.items() if isinstance(part, Schedule)}
    optimizers = [problem for key, schedule in schedules.items() for problem in _optimizer(key, schedule)]
    return [*_precisions(asked, precisions), *optimizers]


def _parts(key: str, part: Any) -> Iterator[tuple[str, Any]]:
    """Settings and the settings inside of them, with their keys in a recipe."""
    yield key, part
    if dc.is_dataclass(part):
        for field in dc.fields(part):
            inner = getattr(part, field.name)
            if dc.is_dataclass(inner) and not isinstance(inner, type):
                yield from _parts(f"{key}.{field.name}", inner)


def _precisions_of(part: Any) -> list[str]:
    """Names of the fields of settings that set the precision of a training."""
    return [name for name, hint in typing.get_type_hints(type(part)).items() if hint == Precision]


def _precisions(asked: PruneSettings, trainings: dict[str, str]) -> Iterator[Problem]:
    if not trainings:
        return
    with needs("train", "training"):
        from accelerate.utils.imports import is_bf16_available

    cpu = asked.device == "cpu"
    for key, precision in trainings.items():
        if precision == "fp16" and (cpu or not torch.cuda.is_available()):
            why = "device is 'cpu'" if cpu else "there is none here"
            yield Problem(key, f"'fp16' trains on a CUDA device only, and {why}; use 'bf16', 'fp32' or 'auto'")
        known: Any = is_bf16_available  # accelerate has no types
        if precision == "bf16" and not cpu and not known(ignore_tpu=True):
            yield Problem(key, "'bf16' cannot be computed by the device here; use 'fp32' or 'auto'")


def _optimizer(section: str, schedule: Schedule) -> Iterator[Problem]:
    try:
        check_optimizer(schedule)
    except SettingsError as error:
        key, _, text = str(error).partition(": ")
        yield Problem(f"{section}.{key}", text)


def _own_loop(asked: PruneSettings) -> Iterator[Problem]:
    """Settings that another loop than edakari's does not follow."""
    for key, unused in (("compile", "none"), ("sync_bn", None)):
        found = getattr(asked, key)
        if asked.fit is not None and found and found != unused:
            name = fit_name(asked.fit)
            yield Problem(key, f"is of edakari's own training loop, but fit names {name!r}, found {found!r}")


def _sync_norms(asked: PruneSettings, processes: Processes) -> Iterator[Problem]:
    try:
        require_sync_norms(processes.device, processes.world if asked.sync_bn else 1)
    except RecipeError as error:
        key, _, text = str(error).partition(": ")
        yield Problem(key, text)


def _batches(asked: PruneSettings, processes: Processes) -> Iterator[Problem]:
    if not isinstance(asked, Recipe):  # a task that is given has batches of its own
        return
    count, size = processes.world, asked.data.batch_size
    if size % count:
        fitting = f"{size - size % count} or {size - size % count + count}" if size > count else str(count)
        yield Problem("data.batch_size", f"must divide among the {count} processes, found {size}; {fitting} would do")


def _runtimes(asked: PruneSettings) -> Iterator[Problem]:
    for cost, latency in asked.latencies.items():
        wrong = option_faults(latency.runtime, latency)
        yield from (Problem(f"{key_of(cost)}.{name}", text) for name, text in wrong.items())
        if not wrong:
            chosen = runtime_named(latency.runtime, latency)
            for name, text in faults(chosen, run_settings(latency)):
                yield Problem(f"{key_of(cost)}.{name}", text)
    if asked.measure:
        settings = RunSettings(threads=asked.measure.threads, warmup=asked.measure.warmup)
        for index, runtime in enumerate(asked.measure.runtimes):
            made = runtime_named(runtime)
            if isinstance(made, RemoteRuntime):
                yield Problem(
                    f"measure.runtimes[{index}]",
                    f"names {runtime!r}, whose settings stand under `latency`; a latency budget times the finished "
                    "network there, too, so leave it out here",
                )
                continue
            for name, text in faults(made, settings):
                yield Problem("measure.threads" if name == "threads" else f"measure.runtimes[{index}]", text)


def _folders(asked: PruneSettings) -> Iterator[Problem]:
    named = {
        **{f"{key_of(cost)}.cache": latency.cache for cost, latency in asked.latencies.items()},
        "finetune.bank.folder": asked.finetune.bank.folder
        if asked.finetune and asked.finetune.teacher == "bank"
        else None,
    }
    for key, folder in named.items():
        # an existing folder may hold all that is needed; it is checked when something must be added
        if folder is not None and not Path(folder).is_dir():
            try:
                require_writable(Path(folder) / MARKER)
            except RunFolderError as error:
                yield Problem(key, str(error))
