"""Explanations of a run: pictures with short texts, made on request, stored in its folder, shown in its report."""

from __future__ import annotations

import base64
import dataclasses as dc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edakari.core.file_errors import require_writable
from edakari.core.files import write_json
from edakari.core.reading import Unreadable, because, inside, read_bytes, read_json
from edakari.errors import RunFolderError
from edakari.report.stage_files import check_explanation

__all__ = ["FOLDER", "Explanation", "Picture", "explanations", "inlined", "require_room", "write_explanation"]

FOLDER = "explain"
"""Folder of explanations in a run folder."""
PNG = b"\x89PNG\r\n\x1a\n"
PICTURE_BYTES = 32 * 2**20
"""Largest size of one picture; edakari's pictures have a few hundred kilobytes."""


@dc.dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file of an explanation.

    Args:
        file: file name, in the folder of the explanation.
        title: title of the picture.
        note: text that says what the picture shows.
    """

    file: str
    title: str
    note: str = ""


@dc.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Explanation of a method's decisions by pictures.

    Args:
        name: name of the explanation, such as "rfc"; a run has at most one of each name.
        title: heading of its section.
        text: how to read the pictures.
        pictures: pictures in order.
    """

    name: str
    title: str
    text: str
    pictures: tuple[Picture, ...]


def require_room(folder: str | Path) -> None:
    """Check that an explanation can be written into a run folder, before it is made.

    Raises:
        RunFolderError: the folder is not writable; the message says why, and what to do.
    """
    for name in ("report.html", f"{FOLDER}/explanation.json"):
        require_writable(Path(folder) / name)


def write_explanation(explanation: Explanation, folder: str | Path) -> Path:
    """Write an explanation, whose pictures already exist, into a run's `explain` folder.

    Returns:
        The path of its file.
    """
    path = Path(folder) / FOLDER / f"{explanation.name}.json"
    write_json(path, dc.asdict(explanation))
    return path


def explanations(folder: str | Path) -> list[dict[str, Any]]:
    """Read the explanations in a run folder as plain values, sorted by name.

    Raises:
        RunFolderError: a file is damaged, or a picture is missing.
    """
    found = []
    for path in sorted((Path(folder) / FOLDER).glob("*.json")):
        try:
            content = check_explanation(read_json(inside(folder, path.relative_to(folder))), path)
            files = [inside(path.parent, each["file"]) for each in content["pictures"]]
            missing = [file.name for file in files if not file.is_file()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} cannot be read: {because(error)}; run `edakari explain` again") from error
        if missing:
            raise RunFolderError(f"{path} names {missing[0]!r}, which is not there; run `edakari explain` again")
        found.append(content)
    return found


def inlined(folder: str | Path, found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the pictures of explanations as data URLs, by file name, for a self-contained page."""
    files = [picture["file"] for explanation in found for picture in explanation["pictures"]]
    return {file: _data_url(Path(folder) / FOLDER, file) for file in files}


def _data_url(folder: Path, name: str) -> str:
    """Encode a picture in a folder as a data URL.

    Raises:
        RunFolderError: the path leads out of the folder, or the file is not a PNG; a shared page contains nothing else.
    """
    try:
        content = read_bytes(inside(folder, name), PICTURE_BYTES)
        if not content.startswith(PNG):
            raise Unreadable("it is not a PNG file")
    except (OSError, Unreadable) as error:
        raise RunFolderError(
            f"{folder / name} cannot be shown: {because(error)}; run `edakari explain` again"
        ) from error
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
