"""Results that runs have in common: whoever needs one first computes it, and the others read it."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

import edakari
from edakari.core.files import replacing, write_json
from edakari.core.method import METHODS
from edakari.core.plain_values import plain
from edakari.core.processes import Processes
from edakari.core.protocols import Criterion
from edakari.core.reading import inside, read_json
from edakari.core.space import Scores

__all__ = ["SharedResults"]

T = TypeVar("T")


@dc.dataclass(frozen=True)
class SharedResults:
    """A folder of results that runs of equal inputs share, on a file system that all of them see.

    Args:
        folder: the folder.
    """

    folder: Path

    @classmethod
    def of(cls, folder: str | Path | None, processes: Processes) -> SharedResults | None:
        """Return the results in a folder; None without one, and for runs in several processes."""
        return cls(Path(folder)) if folder is not None and processes.world == 1 else None

    def result(self, kind: type[T], inputs: Mapping[str, Any], make: Callable[[], T]) -> T:
        """Return a result of plain values: the stored one of equal inputs, else a new one, which is stored.

        Args:
            kind: dataclass of the result.
            inputs: all that it depends on, as JSON values.
            make: function that computes it.
        """
        from edakari.report.stage_files import result_from  # which needs an extra

        def read(path: Path) -> T:
            return result_from(kind, read_json(inside(self.folder, path.name)), path)

        def write(path: Path, made: T) -> None:
            write_json(path, dc.asdict(made))  # type: ignore[call-overload]

        return self._once(f"{kind.__name__}", ".json", inputs, make, read, write)

    def scores(self, inputs: Mapping[str, Any]) -> Callable[[Criterion, Callable[[], Scores]], Scores]:
        """Return a function that gives the scores of a criterion for a run's unpruned network; see `Job.scoring`.

        Args:
            inputs: all that scores depend on beside the criterion, as JSON values.
        """

        def read(path: Path) -> Scores:
            from safetensors.torch import load_file

            return load_file(path)

        def write(path: Path, made: Scores) -> None:
            from safetensors.torch import save_file

            with replacing(path) as temporary:
                save_file({name: value.contiguous() for name, value in made.items()}, temporary)

        def once(criterion: Criterion, make: Callable[[], Scores]) -> Scores:
            name = _named(criterion)
            if name is None:  # an object of a program's own, of which nothing says what it computes
                return make()
            return self._once("scores", ".safetensors", {**inputs, "criterion": name}, make, read, write)

        return once

    def _once(
        self,
        name: str,
        suffix: str,
        inputs: Mapping[str, Any],
        make: Callable[[], T],
        read: Callable[[Path], T],
        write: Callable[[Path, T], None],
    ) -> T:
        import filelock  # which comes with torch

        versions = {"edakari": edakari.__version__, "torch": torch.__version__}
        exact = json.dumps({**inputs, **versions}, sort_keys=True, default=str)
        path = self.folder / f"{name}-{hashlib.sha256(exact.encode()).hexdigest()[:16]}{suffix}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                write(path, make())
            return read(path)


def _named(criterion: Criterion) -> Mapping[str, Any] | None:
    """A criterion with its settings, as plain values; None if it has no name."""
    from edakari.criteria import CRITERIA

    name = CRITERIA.name_of(criterion) or METHODS.name_of(criterion)
    if name is None:
        return None
    return {"name": name, **(plain(criterion) if dc.is_dataclass(criterion) else {})}
