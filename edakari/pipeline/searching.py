"""Runs with a budget such as `top1_drop<=1`: several networks are trained, and the smallest that keeps to it stays."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edakari.core import owned
from edakari.core.budget import Budget
from edakari.core.files import write_json
from edakari.core.reading import inside, read_json
from edakari.core.wording import counted
from edakari.errors import InfeasibleBudget, RecipeError, RunFolderError, SweepError
from edakari.pipeline import processes
from edakari.pipeline.context import Notify
from edakari.pipeline.folder import RunFolder, is_run, release
from edakari.pipeline.result import Result
from edakari.pipeline.settings import PruneSettings
from edakari.pipeline.smallest import Found, Search, smallest
from edakari.report.formatting import is_share

__all__ = ["SearchFolder", "search_smallest", "searched_in"]

SHORTER = 4
"""Factor by which the first trainings are shorter."""
FILE = "search.json"


S = TypeVar("S", bound=PruneSettings)


@dc.dataclass(frozen=True)
class SearchFolder:
    """The folder of a search, beside the run folder that the network found ends in.

    Args:
        run: run folder of the result.
    """

    run: Path

    @property
    def path(self) -> Path:
        """Folder of the runs that were tried."""
        return self.run.with_name(f"{self.run.name}.search")

    @property
    def shared(self) -> Path:
        """Folder of what the runs that were tried have in common."""
        return self.path / "shared"

    def require_free(self, *, overwrite: bool) -> None:
        """Refuse a run folder that holds something else than the result of this search.

        Raises:
            RunFolderError: it does.
        """
        known = (self.path / FILE).is_file()
        if overwrite and is_run(self.run):
            return
        if not owned.is_free(self.run) and not (known and is_run(self.run)):
            raise RunFolderError(
                f"{self.run} is not empty and holds no result of this search; name another folder, or give --overwrite "
                "if it is a run"
            )

    def found(self) -> float | None:
        """The fraction that an earlier search has found; None if it is not finished."""
        try:
            content = read_json(inside(self.path, FILE))
        except (OSError, ValueError):
            return None
        fraction = content.get("fraction") if isinstance(content, dict) else None
        return fraction if isinstance(fraction, float) else None

    def clear(self) -> None:
        """Remove the result of an earlier search."""
        (self.path / FILE).unlink(missing_ok=True)
        if is_run(self.run):
            release(RunFolder(self.run), remove=True)

    def finish(self, found: Found, name: str) -> None:
        """Move the run that was found to the run folder."""
        write_json(self.path / FILE, dc.asdict(found))
        self.take(name)

    def take(self, name: str) -> None:
        """Move a run of the search to the run folder, unless it is there."""
        if not is_run(self.run) and is_run(self.path / name):
            if self.run.is_dir():  # empty, as was required
                self.run.rmdir()
            (self.path / name).rename(self.run)


def search_smallest(asked: S, attempt: Callable[[S, str], Result], notify: Notify) -> tuple[Found, S, str, Result]:
    """Find the smallest budget whose network loses no more of a metric than the settings allow.

    Args:
        asked: settings with such a budget.
        attempt: function that runs settings with a plain budget; its second argument names the run.
        notify: callback that is told each attempt.

    Returns:
        The search, the settings of the run that was found, its name and its result.

    Raises:
        RecipeError: the task has no such metric.
        SweepError: no budget keeps to the limit; names the nearest.
    """
    assert asked.budget.drop is not None
    drop, results = asked.budget.drop, dict[str, Result]()

    def loss(fraction: float, long: bool) -> float | None:
        settings, name = attempted(asked, fraction, long=long)
        try:
            found = attempt(settings, name)
        except InfeasibleBudget:
            notify("search", "log", {"stage": f"{settings.budget}: no network has so small a cost"})
            return None
        lost = _lost(found, drop.metric)
        epochs = settings.finetune.epochs if settings.finetune else 0
        figure = f"points of {drop.metric} lost" if is_share(drop.metric) else f"{drop.metric} lost"
        notify("search", "log", {"stage": f"{settings.budget}, {counted(epochs, 'epoch')}", figure: lost})
        if long and lost <= drop.limit:
            results.clear()  # one network is enough to keep
            results[name] = found
        return lost

    tuned = asked.finetune is not None and asked.finetune.epochs >= SHORTER
    try:
        found = smallest(Search(drop.limit, **({} if tuned else {"short": 0})), loss)
    except SweepError as error:
        raise SweepError(f"budget {str(asked.budget)!r}: {error}") from None
    settings, name = attempted(asked, found.fraction, long=True)
    return found, settings, name, results[name] if name in results else attempt(settings, name)


def attempted(asked: S, fraction: float, *, long: bool) -> tuple[S, str]:
    """Return the settings of one attempt, and its name.

    Args:
        asked: settings with a limit on the loss of a metric.
        fraction: fraction of the first limit.
        long: whether to train as long as asked for, and to measure and export the network.
    """
    first, *others = asked.budget.terms
    scaled = dc.replace(first, limit=float(f"{first.limit * fraction:.4g}"))
    budget = Budget((scaled, *others), asked.budget.sparsity)
    name = f"{'long' if long else 'short'}-{fraction:.4f}"
    if long or asked.finetune is None:
        return dc.replace(asked, budget=budget), name
    epochs = max(round(asked.finetune.epochs / SHORTER), 1)
    tuning = dc.replace(asked.finetune, epochs=epochs)
    return dc.replace(asked, budget=budget, finetune=tuning, measure=None, export=()), name


def _lost(found: Result, metric: str) -> float:
    """What a metric lost, in points if it is a fraction."""
    dense, last = found.report["networks"][0]["metrics"], found.report["networks"][-1]["metrics"]
    if metric not in dense or metric not in last:
        raise RecipeError(f"budget: {metric!r} is no metric of the task; known: {', '.join(dense) or 'none'}")
    return float(dense[metric] - last[metric]) * (100 if is_share(metric) else 1)


def searched_in(
    folder: Path,
    asked: S,
    attempt: Callable[[S, Path], Result],
    notify: Notify,
    *,
    overwrite: bool,
) -> Result:
    """Search with a folder for each attempt, or return the result of an earlier search.

    Args:
        folder: run folder of the result.
        asked: see `search_smallest`.
        attempt: function that runs settings in a folder.
        notify: see `search_smallest`.
        overwrite: whether to remove the results of an earlier search.
    """
    place, together = SearchFolder(folder), processes.started(cpu=asked.device == "cpu")
    place.require_free(overwrite=overwrite)
    if overwrite and together.main:
        place.clear()
    together.wait()
    fraction = place.found()
    if fraction is None:
        found, settings, name, _ = search_smallest(
            asked, lambda settings, name: attempt(settings, place.path / name), notify
        )
        if together.main:
            place.finish(found, name)
    else:
        settings, name = attempted(asked, fraction, long=True)
        if together.main:
            place.take(name)
    together.wait()
    return attempt(settings, folder)
