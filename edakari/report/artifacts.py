"""Files in which a run's method explains its result: of a search, of masks, and of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edakari.core.reading import because, inside, read_json
from edakari.errors import RunFolderError
from edakari.report.stage_files import check_events

__all__ = ["read_artifact"]


def read_artifact(folder: Path, name: str) -> Any:
    """Read one of the files; None if the method left none.

    Args:
        folder: run folder.
        name: name of the file without its suffix, as in `edakari.report.stage_files.check_events`.

    Raises:
        RunFolderError: the file is damaged; says which.
    """
    path = folder / "kept" / f"{name}.json"
    if not path.is_file():
        return None
    try:
        content = read_json(inside(folder, path.relative_to(folder)))
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{path} cannot be read: {because(error)}; remove it to have a report without it"
        ) from error
    return check_events(name, content, path)
