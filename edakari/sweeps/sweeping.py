"""`edakari.sweep`: runs a recipe with many values of its keys, alone or beside other workers."""

from __future__ import annotations

import dataclasses as dc
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edakari.core import owned
from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.core.optional import needs
from edakari.core.processes import Processes
from edakari.errors import RecipeError, RunFolderError, SweepError
from edakari.pipeline.context import Notify, silent
from edakari.pipeline.folder import differences
from edakari.pipeline.runner import run
from edakari.sweeps.axes import SEED
from edakari.sweeps.comparing import Comparison
from edakari.sweeps.entries import Entry, entry_of
from edakari.sweeps.plan import Point, SweepPlan, plan_of
from edakari.sweeps.queue import LOCK, Item, Queue, Worker
from edakari.sweeps.samplers import DIRECTIONS, search_options
from edakari.sweeps.settings import SweepSettings, read_sweep, sweep_from
from edakari.sweeps.storage import open_storage
from edakari.sweeps.table import Failure, Results, results_of
from edakari.sweeps.writing import write_results

with needs("sweep", "a sweep"):
    import filelock
    import optuna

__all__ = ["sweep"]

KIND, FILE = "edakari.sweep/1", "sweep.yaml"
ENTRIES = "entries"
POLL = 0.5
"""Seconds between two looks at runs of other workers."""
Tell = Callable[[str, int, int], None]
"""Callback that takes a line about the sweep, the number of runs that are done, and of all runs."""


def quiet(text: str, done: int, every: int) -> None:
    """Says nothing."""


@file_errors()
def sweep(
    settings: SweepSettings | Mapping[str, Any] | str | Path,
    folder: str | Path,
    *,
    trust_code: bool = False,
    notify: Notify = silent,
    tell: Tell = quiet,
) -> Comparison:
    """Run a recipe with many values of its keys, and compare the runs.

    Any number of processes may call this with the same arguments: each takes runs from the same queue. A run whose
    process dies goes back into the queue, and goes on inside its own run folder.

    Args:
        settings: path of a sweep's file, its content as plain values, or a `SweepSettings`.
        folder: folder of the sweep; all processes on one machine name the same.
        trust_code: whether to run Python files that a recipe's file names.
        notify: callback for the progress of the stages of each run.
        tell: callback for the progress of the sweep.

    Returns:
        The comparison of all runs, as a table; its page lies in the folder.

    Raises:
        RecipeError: the sweep cannot be read, or some of its combinations cannot be run; lists them.
        SweepError: the storage cannot be used, or holds another sweep of this name, or all runs failed.
        RunFolderError: the folder is of another sweep, or cannot be written.
    """
    call = "sweep(settings, folder)"
    require(call, settings=(settings, (SweepSettings, Mapping, str, Path)), folder=(folder, (str, Path)))
    folder = Path(folder)
    read, where = _settings(settings)
    # values in a program name what their author wants to run
    plan = plan_of(read, where, trust_code=trust_code or not isinstance(read.recipe, str))
    if Processes.here().world > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(f"{call}: runs in several processes cannot share a queue; start one worker for each GPU")
    _claim(folder, plan)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    worker = Worker(folder)
    with worker.living():
        work = _Work(plan, folder, _queues(plan, folder, worker), notify, tell)
        work.finish()
    return work.comparison()


def _settings(given: SweepSettings | Mapping[str, Any] | str | Path) -> tuple[SweepSettings, str]:
    if isinstance(given, str | Path):
        return read_sweep(given), str(given)
    return (given if isinstance(given, SweepSettings) else sweep_from(given)), "sweep"


def _claim(folder: Path, plan: SweepPlan) -> None:
    """Make the folder of a sweep, or join the sweep that is there.

    Raises:
        RunFolderError: the folder is of another sweep, or is no folder of a sweep.
    """
    from edakari.pipeline.yaml_file import read_stored, write_yaml  # which needs an extra

    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; name a folder for the sweep")
    # the marker is read last: another worker may make the sweep just now, and its lock is there before its marker
    if not owned.is_free(folder, LOCK) and (owned.marker(folder) or {}).get("format") != KIND:
        raise RunFolderError(f"{folder} is not empty and no folder of a sweep; nothing in it was touched. Name another")
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / LOCK):
        if not (folder / FILE).is_file():
            owned.mark(folder, KIND)
            write_yaml(folder / FILE, plan.content)
    found = list(differences(read_stored(folder / FILE), plan.content))
    if found:
        key, theirs, ours = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise RunFolderError(
            f"{folder} holds another sweep of this name: {key} is {theirs!r} there and {ours!r} here{more}. Name "
            "another folder with --output, or restore the sweep's file"
        )


def _queues(plan: SweepPlan, folder: Path, worker: Worker) -> list[Queue]:
    """The queues: one of all runs, or in a search one of each combination's trials."""
    storage, points = open_storage(plan.settings.storage, folder), plan.points()
    identity = hashlib.sha256(json.dumps(plan.content, sort_keys=True).encode()).hexdigest()
    if not plan.spans:
        options = {"sampler": optuna.samplers.RandomSampler(plan.settings.seed), "directions": DIRECTIONS}
        entries = [point.labels for point in points]
        return [Queue.opened(plan.name, storage, worker, folder, entries, identity, **options)]
    return [
        Queue.opened(
            f"{plan.name}: {point.text}" if point.labels else plan.name,
            storage,
            worker,
            folder,
            [point.labels] * plan.settings.trials,
            identity,
            **search_options(plan.settings),
        )
        for point in points
    ]


@dc.dataclass(frozen=True)
class _Work:
    """What one worker does.

    Args:
        plan: what is to be run.
        folder: folder of the sweep.
        queues: the queues of runs.
        notify: callback for the stages of each run.
        tell: callback for the progress of the sweep.
    """

    plan: SweepPlan
    folder: Path
    queues: Sequence[Queue]
    notify: Notify
    tell: Tell

    def finish(self) -> None:
        """Take runs until there is none left, here or at other workers."""
        at_rest = not any(item.state in ("waiting", "running") for queue in self.queues for item in queue.items())
        for queue in self.queues:
            queue.refresh(failed=at_rest)
        while self._took_one():
            pass

    def _took_one(self) -> bool:
        """Carry out one run, or wait for those of others; False when all are done."""
        running = False
        for queue in self.queues:
            states = {item.state for item in queue.refresh()}
            if "waiting" in states:
                queue.work(functools.partial(self._execute, queue))
                self._write()
                return True
            running = running or "running" in states
        if running:
            time.sleep(POLL)
        return running

    def _execute(self, queue: Queue, trial: optuna.Trial, number: int) -> Sequence[float]:
        """Run the recipe of a trial, or in a search that of each seed, and return the trial's values."""
        labels = dict(queue.entries[number])
        for axis in self.plan.lists.values():
            if axis.key in labels:
                trial.suggest_categorical(axis.key, list(axis.values))
        numbers = {span.key: span.suggest(trial) for span in self.plan.spans}
        point = Point(labels, numbers)
        points = [point.with_label("seed", name) for name in self.plan.seeds] if numbers else []
        entries = [self._run(each, trial if not index else None) for index, each in enumerate(points or [point])]
        trial.set_user_attr(ENTRIES, [entry.plain for entry in entries])
        return self._values(entries)

    def _run(self, point: Point, judged: optuna.Trial | None) -> Entry:
        """Run the recipe of a point; the pruner may end the run of a trial that it judges."""
        folder = self.folder / "runs" / self.plan.folder_of(point)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / "workers" / f"{folder.name}.run.lock"):
            recipe = self.plan.recipe(point)
            result = run(recipe, folder, notify=self._judging(judged), shared=self.folder / "shared")
        entry = entry_of(result.report, folder, {**point.labels, **point.numbers}, str(recipe.budget))
        items = [item for queue in self.queues for item in queue.items()]
        done = sum(item.state in ("done", "failed") for item in items) + 1
        figure = f": {entry.metric} {entry.metrics[entry.metric]:.4f}" if entry.metric else ""
        self.tell(f"{point.text}{figure}, {entry.seconds:.0f} s", min(done, len(items)), len(items))
        return entry

    def _judging(self, trial: optuna.Trial | None) -> Notify:
        """The callback of a run, which reports the metric of each epoch of its fine-tuning to the pruner."""
        goal = self.plan.settings.goal
        if trial is None or self.plan.settings.pruner == "none":
            return self.notify

        def notify(stage: str, state: str, found: Any) -> None:
            self.notify(stage, state, found)
            if (stage, state) != ("finetune", "epoch"):
                return
            metrics = {name.removeprefix("val_"): value for name, value in found.items() if name.startswith("val_")}
            wanted = goal.maximize if goal is not None else None
            value = metrics.get(wanted) if wanted else next(iter(metrics.values()), None)
            if value is not None:
                trial.report(float(value), int(found["epoch"]))
                if trial.should_prune():
                    raise optuna.TrialPruned(f"below the others after epoch {found['epoch']}")

        return notify

    def _values(self, entries: Sequence[Entry]) -> tuple[float, ...]:
        """What the storage's study judges: the metric, and where two numbers count, a cost."""
        goal = self.plan.settings.goal
        metric, cost = (goal.maximize if goal else None), (goal.minimize if goal else None)
        found = [_metric(entry, metric) for entry in entries]
        mean = sum(found) / len(found)
        if self.plan.spans and cost is None:
            return (mean,)
        return mean, sum(_cost(entry, cost) for entry in entries) / len(entries)

    def results(self) -> Results:
        """The comparison of the runs that are done so far."""
        entries, failures, missing, pruned = [], [], 0, 0
        points = self.plan.points()
        for index, queue in enumerate(self.queues):
            for item in queue.items():
                found = item.trial.user_attrs.get(ENTRIES) if item.trial else None
                if item.state == "done" and found is not None:
                    entries += [Entry(**each) for each in found]
                elif item.state == "failed":
                    failures.append(Failure(_words(points, index, item, bool(self.plan.spans)), item.error))
                pruned += item.state == "done" and found is None
                missing += item.state in ("waiting", "running", "missing")
        goal = self.plan.settings.goal
        return results_of(
            self.plan.name,
            entries,
            failures=failures,
            missing=missing,
            pruned=pruned,
            metric=goal.maximize if goal else None,
            keys=[axis.key for axis in self.plan.axes if axis.key != SEED],
        )

    def _write(self) -> Path | None:
        results = self.results()
        return write_results(results, self.folder) if results.rows else None

    def comparison(self) -> Comparison:
        """The table of all runs.

        Raises:
            SweepError: no run succeeded.
        """
        results = self.results()
        if not results.rows:
            why = "\n  ".join(f"{each.text}: {each.error}" for each in results.failures)
            raise SweepError(f"{self.folder}: no run of the sweep succeeded:\n  {why}")
        return Comparison(results, write_results(results, self.folder), self._best(results))

    def _best(self, results: Results) -> Path | None:
        """The run that reaches the goal best: of the best setting, that of the best seed."""
        goal = self.plan.settings.goal
        row = results.best(goal.minimize) if goal is not None and (goal.minimize is None or goal.subject_to) else None
        if row is None:
            return None
        return Path(max(row.entries, key=lambda entry: entry.metrics.get(results.metric, 0.0)).folder)


def _words(points: Sequence[Point], index: int, item: Item, searching: bool) -> str:
    if not searching:
        return points[item.number].text
    params = item.trial.params if item.trial else {}
    return Point(points[index].labels, {key: value for key, value in params.items() if isinstance(value, float)}).text


def _metric(entry: Entry, name: str | None) -> float:
    wanted = name or entry.metric
    if wanted and wanted not in entry.metrics:
        raise RecipeError(f"goal.maximize: {wanted!r} is no metric of the task; known: {', '.join(entry.metrics)}")
    return entry.metrics[wanted] if wanted else 0.0


def _cost(entry: Entry, name: str | None) -> float:
    wanted = name or "macs"
    if wanted not in entry.costs:
        raise RecipeError(f"goal.minimize: {wanted!r} is no cost of the runs; known: {', '.join(entry.costs)}")
    return entry.costs[wanted]
