"""The folder of a run: the recipe as run, one JSON per finished stage, the networks, the exports, the report."""

from __future__ import annotations

import dataclasses as dc
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from edakari.core.files import write_json, write_text
from edakari.core.reading import YAML_BYTES, inside, parse_yaml, read_json, read_text
from edakari.errors import RunFolderError

__all__ = ["RunFolder", "claim", "clear"]

RECIPE = "recipe.yaml"
STAGES = "stages"
OWN = (
    RECIPE,
    "environment.json",
    STAGES,
    "pruned",
    "kept",
    "work",
    "export",
    "explain",
    "plan.json",
    "network.json",
    "weights.safetensors",
    "report.json",
    "report.html",
    "report.png",
)
"""Everything that a run may write at the top of its folder; an overwrite removes this and nothing else."""


@dc.dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its results.

    Args:
        path: of the folder.
    """

    path: Path

    @property
    def pruned(self) -> Path:
        """Where the network lies as pruned, before fine-tuning."""
        return self.path / "pruned"

    @property
    def kept(self) -> Path:
        """Where the method leaves what explains its result."""
        return self.path / "kept"

    @property
    def exported(self) -> Path:
        """Where exported networks lie."""
        return self.path / "export"

    def work(self, stage: str) -> Path:
        """Where a stage may keep what it needs to go on after an interruption."""
        return self.path / "work" / stage

    def done(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return self._file(stage).is_file()

    def read(self, stage: str) -> dict[str, Any]:
        """The result of a finished stage.

        Raises:
            RunFolderError: the file is damaged.
        """
        return _json(self._file(stage))

    def finish(self, stage: str, result: Mapping[str, Any]) -> None:
        """Write the result of a stage, which makes it finished."""
        write_json(self._file(stage), result)

    def tidy(self) -> None:
        """Remove what was only there to go on after an interruption."""
        shutil.rmtree(self.path / "work", ignore_errors=True)

    def recipe(self) -> dict[str, Any]:
        """The recipe as run.

        Raises:
            RunFolderError: there is none, or it is damaged.
        """
        return _recipe(self.path)

    def _file(self, stage: str) -> Path:
        return self.path / STAGES / f"{stage}.json"


def claim(path: str | Path, recipe: Mapping[str, Any], *, overwrite: bool = False) -> RunFolder:
    """The folder of a run of this recipe: made where there is none, taken up where one of the same recipe is.

    Args:
        path: of the folder.
        recipe: content of the recipe with all defaults.
        overwrite: whether to remove the results of an earlier run.

    Raises:
        RunFolderError: the folder is of another recipe (names the first key that differs), is no run folder, or
            cannot be made.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file; name a folder for the run")
    foreign = path.is_dir() and any(path.iterdir()) and not (path / RECIPE).is_file()
    if foreign:
        raise RunFolderError(f"{path} is not empty and no run folder (it has no {RECIPE}); name another folder")
    if (path / RECIPE).is_file() and overwrite:
        clear(path)
    if (path / RECIPE).is_file():
        difference = next(_differences(_recipe(path), json.loads(json.dumps(recipe))), None)
        if difference is not None:
            key, theirs, ours = difference
            raise RunFolderError(
                f"{path} holds a run of another recipe: {key} is {theirs!r} there and {ours!r} here. "
                "Name another folder, or give --overwrite to remove the earlier run."
            )
        return RunFolder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / RECIPE, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise RunFolderError(f"cannot make the run folder {path}: {error.strerror}; name another folder") from error
    return RunFolder(path)


def clear(path: Path, *, remove: bool = False) -> None:
    """Remove what a run wrote into its folder, and nothing else.

    Args:
        path: of the folder.
        remove: whether the folder goes too, if nothing is left in it.
    """
    for name in OWN[::-1]:
        target = path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    if remove and not any(path.iterdir()):
        path.rmdir()


def _recipe(path: Path) -> dict[str, Any]:
    try:
        content, _ = parse_yaml(read_text(inside(path, RECIPE), YAML_BYTES))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunFolderError(f"{path / RECIPE} cannot be read: {error}. Is {path} a run folder?") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path / RECIPE} is not a recipe; was it edited?")
    return content


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}. Remove it to run its stage again.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is not the result of a stage; remove it to run its stage again")
    return content


def _differences(theirs: Any, ours: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in (*ours, *(name for name in theirs if name not in ours)):
            yield from _differences(theirs.get(name), ours.get(name), f"{key}.{name}" if key else name)
    elif theirs != ours:
        yield key, theirs, ours
