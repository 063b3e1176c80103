"""The queue of a sweep's runs in a study of optuna: workers take runs, and runs of dead workers go back."""

from __future__ import annotations

import contextlib
import copy
import dataclasses as dc
import datetime
import os
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edakari.core.optional import needs
from edakari.errors import SweepError
from edakari.sweeps.storage import RETRIES, Storage, storage_errors

with needs("sweep", "a sweep"):
    import filelock
    import optuna
    from optuna.storages import RetryHeartbeatStaleTrialCallback
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["LOCK", "Direction", "Item", "Queue", "Worker"]

ITEM, WORKER, ERROR, STOPPED, SWEEP = "item", "worker", "error", "stopped", "sweep"
"""Attributes of trials and studies: number in the queue, its worker, its error, whether Ctrl-C ended it; the sweep."""
LOCK = "queue.lock"
"""File in a sweep's folder that is locked while a worker changes the queue, or makes it."""
YOUNG = 60.0
"""Seconds for which a trial without the name of its worker is taken for one that has just begun."""
Direction = Literal["maximize", "minimize"]
State = Literal["waiting", "running", "done", "failed", "missing"]


@dc.dataclass(frozen=True)
class Item:
    """One entry of a queue.

    Args:
        number: its number.
        state: what became of it.
        trial: trial that counts; None if there is none.
    """

    number: int
    state: State
    trial: FrozenTrial | None

    @property
    def error(self) -> str:
        """Why it failed."""
        return str((self.trial.user_attrs if self.trial else {}).get(ERROR, f"its worker ended {RETRIES + 1} times"))


class Worker:
    """A process that takes runs from a queue; its lock is held as long as it lives. Run state.

    Args:
        folder: folder of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.folder = folder / "workers"

    @contextlib.contextmanager
    def living(self) -> Iterator[None]:
        """Context in which others see that this worker is alive."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._lock(self.name)
        with filelock.FileLock(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def lives(self, name: str) -> bool:
        """Whether a worker is alive: the system frees the lock of a process that ends, however it ends."""
        path = self._lock(name)
        if name == self.name or not path.exists():
            return name == self.name
        try:
            with filelock.FileLock(path, timeout=0):
                return False
        except filelock.Timeout:
            return True

    def _lock(self, name: str) -> Path:
        return self.folder / f"{name}.lock"


@dc.dataclass(frozen=True)
class Queue:
    """Entries of one study; all workers see the same.

    Args:
        study: study of optuna.
        storage: its storage.
        folder: folder of the sweep.
        worker: this process.
        entries: parameters that are given for each entry; a sampler chooses the others.
    """

    study: optuna.Study
    storage: Storage
    folder: Path
    worker: Worker
    entries: Sequence[Mapping[str, Any]]

    @classmethod
    def opened(
        cls,
        name: str,
        storage: Storage,
        worker: Worker,
        folder: Path,
        entries: Sequence[Mapping[str, Any]],
        identity: str,
        **options: Any,
    ) -> Queue:
        """Make the study of a queue, or join it.

        Args:
            name: name of the study.
            storage: its storage.
            worker: this process.
            folder: folder of the sweep.
            entries: see the class.
            identity: digest of the sweep; another sweep of this name is refused.
            options: directions and sampler of optuna.

        Raises:
            SweepError: the storage cannot be used, or holds another sweep of this name.
        """
        with storage_errors(storage.shown):
            study = optuna.create_study(study_name=name, storage=storage.opened, load_if_exists=True, **options)
            queue = cls(study, storage, folder, worker, entries)
            with queue.alone():
                known = study.user_attrs.get(SWEEP)
                if known is None:
                    study.set_user_attr(SWEEP, identity)
                elif known != identity:
                    raise SweepError(
                        f"storage {storage.shown} holds another sweep of the name {name!r}; give this one another "
                        "name, or another storage"
                    )
        return queue

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Context in which no other worker changes the queue; only where workers share a file system."""
        if not self.storage.local:
            yield
            return
        with filelock.FileLock(self.folder / LOCK):
            yield

    def items(self) -> list[Item]:
        """What became of each entry."""
        with storage_errors(self.storage.shown):
            trials = self.study.get_trials(deepcopy=False)
        found: dict[int, list[FrozenTrial]] = {}
        for trial in trials:
            if ITEM in trial.user_attrs:
                found.setdefault(int(trial.user_attrs[ITEM]), []).append(trial)
        return [_item(number, found.get(number, [])) for number in range(len(self.entries))]

    def refresh(self, *, failed: bool = False) -> list[Item]:
        """Put entries that nobody works on into the queue: new ones, and those whose worker died.

        Args:
            failed: whether those with an error go back, too.

        Returns:
            What became of each entry.
        """
        with storage_errors(self.storage.shown), self.alone():
            self._bury()
            items = self.items()
            if self.storage.local or not any(item.state in ("waiting", "running") for item in items):
                for item in items:
                    if item.state == "missing" or (failed and item.state == "failed"):
                        self._put(item)
        return self.items()

    def work(self, execute: Callable[[optuna.Trial, int], Sequence[float]]) -> None:
        """Take one entry, if there is one, and carry it out.

        Args:
            execute: takes the trial and the number of the entry, and returns the trial's values.
        """

        def objective(trial: optuna.Trial) -> Sequence[float]:
            trial.set_user_attr(WORKER, self.worker.name)
            if ITEM not in trial.user_attrs:  # another worker was faster, and optuna made a trial of its own
                raise optuna.TrialPruned("no entry of the queue")
            try:
                return execute(trial, int(trial.user_attrs[ITEM]))
            except optuna.TrialPruned:
                raise
            except KeyboardInterrupt:
                trial.set_user_attr(STOPPED, True)
                raise
            except Exception as error:
                trial.set_user_attr(ERROR, str(error) or type(error).__name__)
                raise

        with storage_errors(self.storage.shown), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.optimize(objective, n_trials=1, catch=(Exception,))

    def _bury(self) -> None:
        """End the trials whose worker is dead."""
        if not self.storage.local:  # optuna looks for signs of life only when a trial begins
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)
            return
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            name = trial.user_attrs.get(WORKER)
            dead = _age(trial) > YOUNG if name is None else not self.worker.lives(name)
            if dead:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _put(self, item: Item) -> None:
        if item.trial is None:
            given = dict(self.entries[item.number])
            self.study.enqueue_trial(given, user_attrs={ITEM: item.number})
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            again = RetryHeartbeatStaleTrialCallback()
        fresh = copy.deepcopy(item.trial)
        fresh.user_attrs = {ITEM: item.number}
        again(self.study, fresh)


def _item(number: int, trials: Sequence[FrozenTrial]) -> Item:
    for state, words in (
        (TrialState.COMPLETE, "done"),
        (TrialState.PRUNED, "done"),
        (TrialState.RUNNING, "running"),
        (TrialState.WAITING, "waiting"),
    ):
        found = next((trial for trial in trials if trial.state == state), None)
        if found is not None:
            return Item(number, words, found)  # type: ignore[arg-type]
    last = trials[-1] if trials else None
    ended = sum(not {ERROR, STOPPED} & trial.user_attrs.keys() for trial in trials)  # the worker died
    gone = last is not None and (ERROR in last.user_attrs or ended > RETRIES)
    return Item(number, "failed" if gone else "missing", last)


def _age(trial: FrozenTrial) -> float:
    begun = trial.datetime_start
    return 0.0 if begun is None else (datetime.datetime.now(begun.tzinfo) - begun).total_seconds()
