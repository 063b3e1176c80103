"""The folder of a run: its recipe, one JSON file per finished stage, the networks, the exports, the report."""

from __future__ import annotations

import dataclasses as dc
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from edakari.core import owned
from edakari.core.copying import copied
from edakari.core.file_errors import file_errors
from edakari.core.files import write_json
from edakari.core.ledger import MARKER
from edakari.core.plan import Plan
from edakari.core.reading import because, read_json
from edakari.errors import RunFolderError
from edakari.pipeline.store import Version
from edakari.results import Results, StageResult
from edakari.surgery import load, load_plan, save
from edakari.train.resume import checkpoint_in

__all__ = [
    "RECIPE",
    "RunFolder",
    "claim",
    "differences",
    "is_run",
    "release",
    "settings_of",
    "stored_recipe",
    "told_differences",
]

RECIPE = "recipe.yaml"
R = TypeVar("R", bound=StageResult)
STAGES = "stages"
KIND = "edakari.pipeline/1"
WATCHING = frozenset({"report_to"})
"""Keys that change no result."""
NAMED = 6
"""Number of keys that an error names."""


@dc.dataclass(frozen=True)
class RunFolder:
    """The folder in which a run stores its results.

    Args:
        path: path of the folder.
    """

    path: Path

    @property
    def pruned(self) -> Path:
        """Folder of the pruned network before fine-tuning."""
        return self.path / "pruned"

    @property
    def artifacts(self) -> Path:
        """Folder in which the method stores the artifacts that explain its result."""
        return self.path / "kept"

    @property
    def exported(self) -> Path:
        """Folder of the exported networks."""
        return self.path / "export"

    def work(self, stage: str) -> Path:
        """Folder in which a stage may store what it needs to resume after an interruption."""
        return self.path / str((owned.marker(self.path) or {}).get("work", "work")) / stage

    def has_trained(self) -> bool:
        """Whether a training of an unfinished stage left a checkpoint, from which it goes on."""
        return any(self.work("").rglob(checkpoint_in(self.path).name))

    def done(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return self._file(stage).is_file()

    def result(self, kind: type[R]) -> R:
        """Read the result of a finished stage.

        Raises:
            RunFolderError: the stage is not finished, or its file is damaged.
        """
        from edakari.report.stage_files import result_from

        path = self._file(kind.stage)
        return result_from(kind, _json(path), path)

    def results(self) -> Results:
        """Read the results of all finished stages; see `result`."""
        from edakari.report.stage_files import read_results

        return read_results(self.path)

    def finish(self, result: StageResult) -> None:
        """Write the result of a stage, which makes it finished."""
        write_json(self._file(result.stage), dc.asdict(result))

    def put(self, version: Version, model: nn.Module, plan: Plan, base: nn.Module) -> None:
        """Write a network of the run; see `edakari.pipeline.store.Store`."""
        save(model, plan, self._of(version), base=base, overwrite=True)

    def network(self, version: Version, base: nn.Module) -> nn.Module:
        """Read a stored network, in evaluation mode, on the device of `base`."""
        return load(self._of(version), copied(base))

    def plan(self) -> Plan:
        """Read the plan by which the network was cut."""
        return load_plan(self.pruned)

    def _of(self, version: Version) -> Path:
        return self.pruned if version == "pruned" else self.path

    def tidy(self) -> None:
        """Remove files that only served to resume after an interruption."""
        owned.remove_listed(self.path, self.work("").name)

    def recipe(self) -> dict[str, Any]:
        """Read the recipe of the run, with all defaults.

        Raises:
            RunFolderError: there is no recipe, or it is damaged.
        """
        return stored_recipe(self.path)

    def _file(self, stage: str) -> Path:
        return self.path / STAGES / f"{stage}.json"


def is_run(path: Path) -> bool:
    """Whether edakari made this folder for a run."""
    return (owned.marker(path) or {}).get("format") == KIND


def claim(path: str | Path, recipe: Mapping[str, Any], *, overwrite: bool = False) -> RunFolder:
    """Make the folder of a run, or continue with the folder of an earlier run of the same recipe.

    Partly written files of a killed process are removed; no other process may write into the folder.

    Args:
        path: path of the folder.
        recipe: content of the recipe, with all defaults.
        overwrite: whether to remove the results of an earlier run.

    Raises:
        RunFolderError: the folder is of another recipe (the message names the keys that differ), is no run folder, or
            cannot be made.
    """
    from edakari.pipeline.yaml_file import write_yaml  # which needs an extra

    path = Path(path)
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file; name a folder for the run")
    if not is_run(path) and not owned.is_free(path):
        raise RunFolderError(
            f"{path} is not empty and no run folder (it has no {MARKER}, which `edakari prune` writes); nothing in it "
            "was touched. Name another folder with --output"
        )
    with file_errors():
        if not is_run(path):
            owned.mark(path, KIND)
        elif overwrite or (owned.marker(path) or {}).get("clearing"):
            owned.clear(path, KIND)
        owned.sweep(path)
        if not (path / RECIPE).exists():
            write_yaml(path / RECIPE, recipe)
    found = list(differences(stored_recipe(path), json.loads(json.dumps(recipe))))
    if found:
        raise RunFolderError(_of_another_recipe(path, found))
    return RunFolder(path)


def release(folder: RunFolder, *, remove: bool) -> None:
    """Remove what a failed run wrote; remove the folder too if `remove` is set and it is then empty."""
    owned.release(folder.path, KIND, remove=remove)


def _of_another_recipe(path: Path, found: list[tuple[str, Any, Any]]) -> str:
    return (
        f"{path} holds a run of another recipe: {told_differences(found)}. To resume the run that is there, run "
        f"`edakari resume {path}`, or repeat its settings{settings_of(found)}. For a new run, name another folder with "
        "--output."
    )


def told_differences(found: Sequence[tuple[str, Any, Any]]) -> str:
    """Say in which keys two recipes differ, then and now.

    Args:
        found: keys with the values of both; see `differences`.
    """
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(f"{key} is {theirs!r} there and {ours!r} here" for key, theirs, ours in found[:NAMED]) + more


def settings_of(found: Sequence[tuple[str, Any, Any]]) -> str:
    """Return the options that repeat the settings of the recipe that is there; empty if they are many."""
    texts = [f"--set {shlex.quote(f'{key}={json.dumps(theirs)}')}" for key, theirs, _ in found]
    return f" ({' '.join(texts)})" if len(texts) <= NAMED else ""


def stored_recipe(path: Path) -> dict[str, Any]:
    """Read the recipe in a folder.

    Raises:
        RunFolderError: there is no recipe, or it is damaged.
    """
    from edakari.pipeline.yaml_file import read_stored  # which needs an extra

    return read_stored(path / RECIPE)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {because(error)}. Remove it to run its stage again.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is not the result of a stage; remove it to run its stage again")
    return content


def differences(theirs: Any, ours: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted keys in which two recipes differ, with the values of both; who watches does not matter."""
    if key in WATCHING:
        return
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in (*ours, *(name for name in theirs if name not in ours)):
            yield from differences(theirs.get(name), ours.get(name), f"{key}.{name}" if key else name)
    elif theirs != ours:
        yield key, theirs, ours
