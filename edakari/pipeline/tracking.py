"""Trackers: what receives the figures of a run while it works, such as TensorBoard or Weights & Biases."""

from __future__ import annotations

import abc
import contextlib
import csv
import dataclasses as dc
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol

from edakari.core.ledger import enlist
from edakari.core.optional import EXTRAS, missing_packages, needs, require_packages
from edakari.core.processes import Processes
from edakari.core.registry import Registry
from edakari.errors import MissingPackage
from edakari.results import CheckResult, DenseResult, FinetuneResult, MeasureResult

if TYPE_CHECKING:
    from edakari.pipeline.context import Notify

__all__ = ["LOGS", "TRACKERS", "Csv", "Tracker", "both", "missing_tracker", "tracked"]

LOGS = "logs"
"""Folder of a run in which trackers write."""
PROJECT = "edakari"
"""Project of Weights & Biases, and experiment of MLflow, unless their own variables name another one."""
OTHERS = re.compile(r"[^\w./-]+")
"""Characters that not every tracker takes in a name."""
PLACES = frozenset({"title", "step", "steps", "epoch", "epochs", "seconds_left", "text", "stage"})


class Tracker(Protocol):
    """Receives the figures of a run. A class of it may name the extra that it needs as `extra`."""

    def begin(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """Begin, or continue after an interruption.

        Args:
            name: name of the run.
            folder: folder to write in; it exists.
            settings: settings of the run by their dotted keys.
        """

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take figures.

        Args:
            figures: figures by name, such as "finetune/loss".
            step: optimizer step of the stage, from which the names begin; 0 for figures of the whole run.
        """

    def end(self) -> None:
        """End; the run may have failed."""


@dc.dataclass
class Csv:
    """Appends figures to `metrics.csv`, one a line: step, name, value; run state."""

    file: IO[str] | None = None

    def begin(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        path = folder / "metrics.csv"
        fresh = not path.exists()
        # a kill may have cut the last line short
        whole = fresh or path.read_bytes().endswith(b"\n")
        self.file = path.open("a", encoding="utf-8", newline="")
        self.file.write("step,name,value\n" if fresh else "" if whole else "\n")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        assert self.file is not None
        csv.writer(self.file, lineterminator="\n").writerows([step, name, value] for name, value in figures.items())
        self.file.flush()

    def end(self) -> None:
        """See `Tracker`."""
        if self.file is not None:
            self.file.close()


@dc.dataclass
class _Accelerated(abc.ABC):
    """A tracker of accelerate; run state."""

    extra: ClassVar[str]
    own: Any = None

    @abc.abstractmethod
    def make(self, name: str, folder: Path) -> Any:
        """Return the tracker of accelerate."""

    def begin(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        with needs(self.extra, "tracking a run"):
            self.own = self.make(name, folder)
            self.own.start()
        self.own.store_init_configuration(dict(settings))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self.own.log(dict(figures), step=step)

    def end(self) -> None:
        """See `Tracker`."""
        if self.own is not None:
            self.own.finish()


class TensorBoard(_Accelerated):
    """Event files for TensorBoard; run state."""

    extra = "tensorboard"

    def make(self, name: str, folder: Path) -> Any:
        """See `_Accelerated`."""
        from accelerate.tracking import TensorBoardTracker

        return TensorBoardTracker("tensorboard", folder)


class WeightsAndBiases(_Accelerated):
    """A run of Weights & Biases; run state."""

    extra = "wandb"

    def make(self, name: str, folder: Path) -> Any:
        """See `_Accelerated`."""
        from accelerate.tracking import WandBTracker

        return WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), name=name, dir=folder)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker`; its own steps may not go back, as those of another stage do."""
        stages = {name.partition("/")[0] for name in figures}
        self.own.log({**figures, **{f"{stage}/step": step for stage in stages if step}})


class MLflow(_Accelerated):
    """A run of an experiment in MLflow, on the server that MLFLOW_TRACKING_URI names; run state."""

    extra = "mlflow"

    def make(self, name: str, folder: Path) -> Any:
        """See `_Accelerated`."""
        from accelerate.tracking import MLflowTracker

        return MLflowTracker(PROJECT, run_name=name)


TRACKERS: Registry[type[Tracker]] = Registry(
    "tracker",
    "edakari.trackers",
    {
        "csv": "edakari.pipeline.tracking:Csv",
        "tensorboard": "edakari.pipeline.tracking:TensorBoard",
        "wandb": "edakari.pipeline.tracking:WeightsAndBiases",
        "mlflow": "edakari.pipeline.tracking:MLflow",
    },
    members=("begin", "log", "end"),
)
"""Trackers by the name that `report_to` in a recipe gives them."""


def missing_tracker(name: str) -> str | None:
    """Say what a tracker lacks here; None if it can be used. Nothing is imported.

    Args:
        name: name of the tracker.
    """
    extra = getattr(TRACKERS.named(name), "extra", None)
    if extra is None or not missing_packages(*EXTRAS[extra]):
        return None
    try:
        require_packages(extra, f"{name!r}")
    except MissingPackage as error:
        return str(error)
    return None


@contextlib.contextmanager
def tracked(names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> Iterator[_Trackers]:
    """Context with the callback of a run that passes figures to trackers, in the main process alone.

    Args:
        names: names of the trackers.
        folder: folder of the run; trackers write in `logs` below it.
        settings: settings of the run as plain values.
    """
    trackers = _Trackers([TRACKERS.named(name)() for name in names], folder, settings)
    try:
        yield trackers
    finally:
        trackers.end()


def both(notify: Notify, trackers: _Trackers) -> Notify:
    """Return a callback that calls both; the first one alone if there are no trackers."""
    if not trackers.every:
        return notify

    def tell(stage: str, kind: str, values: Any) -> None:
        notify(stage, kind, values)
        trackers(stage, kind, values)

    return tell


@dc.dataclass
class _Trackers:
    """Passes the figures of a run's events to trackers, which begin with the first figures; run state."""

    every: Sequence[Tracker]
    folder: Path
    settings: Mapping[str, Any]
    begun: bool = False
    entries: int = 0

    def __call__(self, stage: str, kind: str, values: Any) -> None:
        if not self.every or not Processes.here().main:
            return
        if kind in ("step", "epoch", "log"):
            figures = {name: float(value) for name, value in values.items() if name not in PLACES}
            self.entries += kind == "log"
            self._log(
                {f"{stage}/{OTHERS.sub('_', name)}": value for name, value in figures.items()},
                int(values.get("step", self.entries)),
            )
        elif kind == "done":
            self._log(_of_result(values), 0)

    def end(self) -> None:
        """End all trackers, and list what they wrote."""
        for tracker in self.every if self.begun else ():
            tracker.end()
        self._enlist()

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        if not figures:
            return
        logs = self.folder / LOGS
        if not self.begun:
            logs.mkdir(parents=True, exist_ok=True)
            self.begun = True
            for tracker in self.every:
                tracker.begin(self.folder.name, logs, dict(_flat(self.settings)))
        for tracker in self.every:
            tracker.log(figures, step)
        if not step:
            self._enlist()  # a stage has ended

    def _enlist(self) -> None:
        """List what the trackers wrote, so that `--overwrite` removes it."""
        for path in sorted((self.folder / LOGS).rglob("*")) if self.begun else ():
            if not path.is_dir():
                enlist(path)


def _of_result(result: Any) -> dict[str, float]:
    """The figures of a finished stage."""
    match result:
        case DenseResult():
            return {f"dense/{name}": value for name, value in result.metrics.items()}
        case CheckResult():
            return {f"pruned/{name}": value for name, value in {**result.costs, **result.metrics}.items()}
        case FinetuneResult():
            return {f"finished/{name}": value for name, value in result.metrics.items()}
        case MeasureResult():
            return {
                f"{network}/{runtime}_ms": getattr(pair, network).median_ms
                for runtime, pair in result.runtimes.items()
                for network in ("dense", "pruned")
            }
    return {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted keys; lists as text, as trackers take plain values alone."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", "null" if value is None else value
        else:
            yield f"{prefix}{key}", json.dumps(value)
