"""Runs all stages: `run_stages` does so for any run, `run` for a recipe and its folder."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from edakari.core.file_errors import file_errors, require_writable
from edakari.core.files import write_json
from edakari.core.ledger import MARKER
from edakari.core.method import Outcome, name_of
from edakari.core.plan import Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Task
from edakari.errors import EdakariError, RunFolderError
from edakari.models import check_trusted
from edakari.models.weights import weights_digest
from edakari.pipeline import processes, stages
from edakari.pipeline.answering import answers_stage
from edakari.pipeline.context import GivenSubject, Notify, RecipeSubject, Run, silent
from edakari.pipeline.environment import environment
from edakari.pipeline.exporting import export_stage
from edakari.pipeline.folder import RunFolder, claim, is_run, release
from edakari.pipeline.load import GIVEN, as_recipe, check_weights
from edakari.pipeline.preflight import check_pruning
from edakari.pipeline.quantizing import quantize_stage
from edakari.pipeline.result import Result
from edakari.pipeline.searching import SearchFolder, search_smallest, searched_in
from edakari.pipeline.settings import PruneSettings, Recipe
from edakari.pipeline.sharing import SharedResults
from edakari.pipeline.store import MemoryStore, Version
from edakari.pipeline.tracking import both, tracked
from edakari.report.content import gathered
from edakari.results import (
    STAGES,
    AnswersResult,
    CheckResult,
    DenseResult,
    ExportResult,
    FinetuneResult,
    LatencyResult,
    MeasureResult,
    PruneResult,
    QuantizeResult,
    ReportResult,
    Results,
    StageResult,
    TraceResult,
)

__all__ = ["Result", "run", "run_given", "run_stages"]

R = TypeVar("R", bound=StageResult)


@file_errors()
def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    folder: str | Path,
    *,
    overwrite: bool = False,
    trust_code: bool = False,
    notify: Notify = silent,
    shared: str | Path | None = None,
) -> Result:
    """Run a recipe, or resume an interrupted run.

    Args:
        recipe: path of a recipe file, content of such a file as plain values, or a `Recipe`.
        folder: folder for the results; a new one, or that of an earlier run of the same recipe.
        trust_code: whether to run Python files that a recipe file names.
        overwrite: whether to remove the results of an earlier run.
        notify: callback for the progress of the stages.
        shared: folder of what runs have in common: the unpruned network's evaluation, and scores of criteria.

    Raises:
        RecipeError: the recipe does not say which weights the network has, or asks for something that is not possible
            here.
        RunFolderError: the folder is of another recipe or cannot be written, or the disk is full.
        UntrustedCode: a recipe from a file names Python code, and the user has not agreed to run it.
        EdakariError: something else is wrong with the input. A run that fails before the pruning leaves nothing behind.
    """
    recipe = as_recipe("run(recipe, folder)", recipe, folder, trust_code=trust_code)
    # check this first: an overwrite would remove earlier results for a run that cannot start
    check_trusted(recipe.model, "the recipe", trust_code=recipe.trust_code)
    check_weights(recipe)
    if recipe.budget.drop is not None:
        options: Any = {"notify": notify, "shared": shared or SearchFolder(Path(folder)).shared}
        return searched_in(Path(folder), recipe, functools.partial(run, **options), notify, overwrite=overwrite)
    together, begun = processes.started(cpu=recipe.device == "cpu"), RunFolder(Path(folder))
    goes_on = is_run(begun.path) and not overwrite

    def made(store: RunFolder) -> Run:
        told = both(notify, trackers)
        return Run(recipe, RecipeSubject(recipe), store, together, told, SharedResults.of(shared, together))

    with together.ending_together(), tracked(recipe.report_to, Path(folder), recipe.content) as trackers:
        check_pruning(recipe, together, lambda stage: goes_on and begun.done(stage))
        return _in_folder(made, Path(folder), recipe.content, together, overwrite)


@file_errors()
def run_given(
    model: nn.Module,
    task: Task,
    settings: PruneSettings,
    *,
    folder: str | Path | None = None,
    overwrite: bool = False,
    notify: Notify = silent,
) -> Result:
    """Run the stages for a given network and task: in memory, or in a folder, from which a run can resume.

    Args:
        model: trained network; it does not change.
        task: its data, loss and metrics. A task without metrics returns none from `evaluate`.
        settings: settings of the run.
        folder: folder for the results; None stores them in memory.
        overwrite: whether to remove the results of an earlier run.
        notify: callback for the progress of the stages.

    Raises:
        EdakariError: see `run`.
    """
    if settings.budget.drop is not None:

        def attempt(chosen: PruneSettings, place: Path | None) -> Result:
            return run_given(model, task, chosen, folder=place, notify=notify)

        if folder is None:
            return search_smallest(settings, lambda chosen, name: attempt(chosen, None), notify)[-1]
        return searched_in(Path(folder), settings, attempt, notify, overwrite=overwrite)
    together, subject = processes.started(cpu=settings.device == "cpu"), GivenSubject(model, task)
    begun = None if folder is None or overwrite or not is_run(Path(folder)) else RunFolder(Path(folder))
    content = {"model": {"name": type(model).__name__, "weights": GIVEN}, **settings.content}

    def made(store: RunFolder) -> Run:
        return Run(settings, subject, store, together, both(notify, trackers))

    with together.ending_together(), tracked(settings.report_to, Path(folder or ""), content) as trackers:
        check_pruning(settings, together, lambda stage: begun is not None and begun.done(stage))
        if folder is not None:
            return _in_folder(made, Path(folder), content, together, overwrite)
        in_memory = Run(settings, subject, MemoryStore(), together, notify)
        results, worked = run_stages(in_memory)
        return _result(in_memory, gathered(results, content), worked)


def run_stages(run: Run) -> tuple[Results, bool]:
    """Carry out a run; stages that are finished in its store do not run again.

    Args:
        run: the run.

    Returns:
        The results of all stages, and whether any of them ran now.

    Raises:
        RunFolderError: the store holds a run of a network with other weights.
        EdakariError: something is wrong with the input.
    """
    steps = _Steps(run)
    traced = steps.take(TraceResult, lambda: stages.trace_stage(run))
    limits = steps.take(LatencyResult, lambda: stages.latency_stage(run))
    steps.take(DenseResult, lambda: stages.dense_stage(run))
    method = _Method(run, limits)
    pruned = steps.take(PruneResult, method.result)
    steps.take(CheckResult, lambda: stages.check_stage(run, run.store.plan(), run.network("pruned"), limits))

    def tuned() -> FinetuneResult:
        model = run.network("pruned")
        result = stages.finetune_stage(run, traced, pruned, model, lambda: method.given(pruned))
        _put(run, "finished", model, run.store.plan())
        return result

    steps.take(FinetuneResult, tuned)
    steps.take(AnswersResult, lambda: answers_stage(run))
    steps.take(MeasureResult, lambda: stages.measure_stage(run, limits, pruned))
    steps.take(QuantizeResult, lambda: quantize_stage(run))
    steps.take(ExportResult, lambda: export_stage(run))
    steps.take(ReportResult, lambda: stages.report_stage(run, run.store.plan()))
    return run.store.results(), steps.worked


@dc.dataclass
class _Steps:
    """Takes a run from stage to stage; run state.

    Args:
        run: the run.
        worked: whether a stage ran.
    """

    run: Run
    worked: bool = False

    def take(self, kind: type[R], make: Callable[[], R]) -> R:
        """Return the result of a stage: the stored one, else a new one, which is stored."""
        run, name = self.run, kind.stage
        if run.processes.agreed(run.store.done(name)):
            stored = run.store.result(kind)
            run.notify(name, "kept", stored)
            return stored
        if not self.worked and kind is not ReportResult:
            run.open_data()
        if not self.worked and kind is not TraceResult:
            _same_weights(run)
        self.worked = True
        run.notify(name, "start", {})
        start = time.perf_counter()
        with run.watched(name):
            made = make()
        timed: R = dc.replace(made, seconds=round(time.perf_counter() - start, 3))
        result = run.processes.agreed(timed)
        if run.processes.main or run.store.path is None:
            run.store.finish(result)
        run.processes.wait()
        run.notify(name, "done", result)
        return result


@dc.dataclass
class _Method:
    """The method's outcome, in a process that ran it; run state.

    Args:
        run: the run.
        limits: limits of the budget as numbers.
        outcome: outcome of the method.
    """

    run: Run
    limits: LatencyResult
    outcome: Outcome | None = None

    def result(self) -> PruneResult:
        """Run the method and store the network that it returns."""
        result, self.outcome = stages.prune_stage(self.run, self.limits)
        _put(self.run, "pruned", self.outcome.model, self.outcome.plan)
        return result

    def given(self, before: PruneResult) -> Outcome:
        """Return the method's outcome; a process that resumes a run makes it again from what the method cached."""
        if self.outcome is None:
            result, outcome = stages.prune_stage(self.run, self.limits)
            if result.plan != before.plan:
                raise RunFolderError(
                    f"{self.run.store.path}: method {name_of(self.run.settings.method)!r} made another plan when run "
                    "again; start again with --overwrite"
                )
            self.outcome = outcome
        return self.outcome


def _put(run: Run, version: Version, model: nn.Module, plan: Plan) -> None:
    if run.processes.main or run.store.path is None:
        run.store.put(version, model, plan, run.dense)
    run.processes.wait()


def _in_folder(
    made: Callable[[RunFolder], Run], folder: Path, content: Mapping[str, Any], together: Processes, overwrite: bool
) -> Result:
    """Carry out a run in its folder; a run that fails before it has trained or pruned leaves nothing behind."""
    from edakari.report import collect  # which needs an extra: told before the folder is made

    fresh, existed = overwrite or not is_run(folder), folder.is_dir()
    store = _claimed(folder, content, together, overwrite)
    run = made(store)
    try:
        _check_writable(store, together)
        _, worked = run_stages(run)
    except Exception as error:
        # what was searched and measured is worth keeping where more memory, or a mended bug, lets the run go on
        needed = PruneResult.stage if isinstance(error, EdakariError) else TraceResult.stage
        if fresh and together.main and not store.done(needed) and not store.has_trained():
            with contextlib.suppress(OSError):  # the first error matters, not that the clean-up fails as well
                release(store, remove=not existed)
        raise
    if together.main:
        store.tidy()
    return _result(run, collect(store.path), worked)


def _result(run: Run, report: Mapping[str, Any], worked: bool) -> Result:
    plan, model = run.store.plan(), run.network("finished")
    return Result(run.store.path, plan, model, report, worked, run.store.results(), run.dense, run.graph)


def _claimed(folder: Path, content: Mapping[str, Any], together: Processes, overwrite: bool) -> RunFolder:
    if together.main:
        claimed = claim(folder, content, overwrite=overwrite)
        if not (claimed.path / "environment.json").is_file():
            write_json(claimed.path / "environment.json", environment(int(content["seed"])))
    together.wait()
    return RunFolder(folder)


def _check_writable(store: RunFolder, together: Processes) -> None:
    """Check the folders of an unfinished run; a finished run may lie where nothing can be written.

    Raises:
        RunFolderError: a folder cannot be written; says which, why, and what to do.
    """
    if not together.main or all(store.done(name) for name in STAGES):
        return
    for folder in (store.path, *(path for path in store.path.iterdir() if path.is_dir())):
        require_writable(folder / MARKER)


def _same_weights(run: Run) -> None:
    """Refuse to resume a run with other weights: its report would be wrong for both."""
    if run.store.result(TraceResult).weights != weights_digest(run.dense):
        raise RunFolderError(
            f"{run.store.path} was started with other weights than {run.subject.name} has now; restore those, or name "
            "another folder for a new run"
        )
