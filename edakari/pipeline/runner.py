"""From a recipe to a finished run folder, stage by stage."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edakari.core.file_errors import file_errors, require_writable
from edakari.core.files import write_json
from edakari.core.ledger import MARKER
from edakari.core.plan import Plan
from edakari.errors import EdakariError, RunFolderError
from edakari.models import check_trusted
from edakari.models.weights import weights_digest
from edakari.pipeline import processes
from edakari.pipeline.context import Notify, Run
from edakari.pipeline.environment import environment
from edakari.pipeline.folder import RunFolder, claim, is_run, release
from edakari.pipeline.load import check_weights, require_recipe
from edakari.pipeline.preflight import check_pruning
from edakari.pipeline.settings import Recipe
from edakari.pipeline.stages import STAGES
from edakari.report import collect
from edakari.report.stage_files import check_stage

__all__ = ["Result", "run"]


@dc.dataclass(frozen=True)
class Result:
    """What a run gives.

    Args:
        folder: the run folder.
        plan: what was removed.
        model: the finished network.
        report: all figures, as in `report.json`.
        fresh: whether this call did anything; False where the run was finished before.
    """

    folder: Path
    plan: Plan
    model: nn.Module
    report: Mapping[str, Any]
    fresh: bool


def silent(stage: str, state: str, figures: Mapping[str, Any]) -> None:
    """Says nothing."""


@file_errors()
def run(recipe: Recipe, folder: str | Path, *, overwrite: bool = False, notify: Notify = silent) -> Result:
    """Run a recipe, or go on with a run that was interrupted.

    Args:
        recipe: what to do.
        folder: where results go; of a new run, or of an earlier run of the same recipe.
        overwrite: whether to remove the results of an earlier run.
        notify: told as stages go on.

    Raises:
        RecipeError: the recipe does not say which weights the network has, or asks for what cannot be done here.
        RunFolderError: the folder is of another recipe or cannot be written to, or the disk is full.
        UntrustedCode: a recipe out of a file names Python code, and the user has not agreed to run it.
        EdakariError: whatever is wrong with the input; a run that fails before it has pruned leaves nothing behind.
    """
    require_recipe("run(recipe, folder)", recipe, folder)
    # first of all: an overwrite would remove what is there for a run that may not begin
    check_trusted(recipe.model, "the recipe", trust_code=recipe.trust_code)
    check_weights(recipe)
    begun = RunFolder(Path(folder))
    goes_on = is_run(begun.path) and not overwrite
    check_pruning(recipe, lambda stage: goes_on and begun.done(stage))
    fresh = not goes_on
    existed = Path(folder).is_dir()
    run = Run(recipe, _claim(recipe, folder, overwrite), notify)
    worked = False
    try:
        _check_writable(run)
        for name in STAGES:
            if processes.agreed(run.folder.done(name), cpu=recipe.device == "cpu"):
                path = run.folder.path / "stages" / f"{name}.json"
                notify(name, "kept", check_stage(name, run.folder.read(name), path))
                continue
            if not worked and name != "trace":
                _same_weights(run)
            worked = True
            _stage(run, name)
    except EdakariError:
        if fresh and run.main and not run.folder.done("prune"):
            with contextlib.suppress(OSError):  # what went wrong matters, not that it stops the tidying as well
                release(run.folder, remove=not existed)
        raise
    if run.main:
        run.folder.tidy()
    return Result(run.folder.path, run.plan, run.final(), collect(run.folder.path), worked)


def _claim(recipe: Recipe, folder: str | Path, overwrite: bool) -> RunFolder:
    cpu = recipe.device == "cpu"
    if not processes.is_main(cpu=cpu):
        processes.wait(cpu=cpu)
        return RunFolder(Path(folder))
    claimed = claim(folder, recipe.content, overwrite=overwrite)
    if not (claimed.path / "environment.json").is_file():
        write_json(claimed.path / "environment.json", environment(recipe.seed))
    processes.wait(cpu=cpu)
    return claimed


def _check_writable(run: Run) -> None:
    """Try the folders of a run in which something is left to do: a finished one may lie where nothing can be written.

    Raises:
        RunFolderError: says which of them cannot be written to, why, and what to do.
    """
    if not run.main or all(run.folder.done(name) for name in STAGES):
        return
    for folder in (run.folder.path, *(path for path in run.folder.path.iterdir() if path.is_dir())):
        require_writable(folder / MARKER)


def _same_weights(run: Run) -> None:
    """A run that goes on with other weights than it began with would report on neither."""
    if run.folder.read("trace")["weights"] != weights_digest(run.dense):
        raise RunFolderError(
            f"{run.folder.path} was begun with other weights than {run.recipe.model.name} has now "
            f"(model.weights: {run.recipe.model.weights}); put those back, or name another folder for a new run"
        )


def _stage(run: Run, name: str) -> None:
    run.notify(name, "start", {})
    start = time.perf_counter()
    result = {**STAGES[name](run), "seconds": round(time.perf_counter() - start, 3)}
    if run.main:
        run.folder.finish(name, result)
    processes.wait(cpu=run.recipe.device == "cpu")
    run.notify(name, "done", result)
