"""Explanations of a run: pictures with a few words, made on request, kept in its folder, shown in its report."""

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

__all__ = ["FOLDER", "Explanation", "Picture", "explanations", "inlined", "keep", "require_room"]

FOLDER = "explain"
"""Where explanations lie in a run folder."""
PNG = b"\x89PNG\r\n\x1a\n"
PICTURE_BYTES = 32 * 2**20
"""Of one picture; ours have some hundred kilobytes."""


@dc.dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file of an explanation.

    Args:
        file: its name, beside the explanation's own file.
        title: what it shows.
        note: what a reader should see in it.
    """

    file: str
    title: str
    note: str = ""


@dc.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a method did what it did, in pictures.

    Args:
        name: of the explanation, such as "rfc"; one of each name is kept.
        title: heading of its section.
        text: how to read the pictures.
        pictures: in order.
    """

    name: str
    title: str
    text: str
    pictures: tuple[Picture, ...]


def require_room(folder: str | Path) -> None:
    """Try whether an explanation can be written into a run's folder, before it is made.

    Raises:
        RunFolderError: says why not, and what to do.
    """
    for name in ("report.html", f"{FOLDER}/explanation.json"):
        require_writable(Path(folder) / name)


def keep(explanation: Explanation, folder: str | Path) -> Path:
    """Write an explanation, whose pictures are there already, into a run's `explain` folder.

    Returns:
        The path of its file.
    """
    path = Path(folder) / FOLDER / f"{explanation.name}.json"
    write_json(path, dc.asdict(explanation))
    return path


def explanations(folder: str | Path) -> list[dict[str, Any]]:
    """The explanations in a run folder as plain values, in order of their names.

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
    """The pictures of explanations as data URLs, by file name, for a page that needs nothing beside itself."""
    files = [picture["file"] for explanation in found for picture in explanation["pictures"]]
    return {file: _data_url(Path(folder) / FOLDER, file) for file in files}


def _data_url(folder: Path, name: str) -> str:
    """A picture in a folder as a data URL.

    Raises:
        RunFolderError: it leads out of the folder, or is no picture: a page that is shown around holds nothing else.
    """
    try:
        content = read_bytes(inside(folder, name), PICTURE_BYTES)
        if not content.startswith(PNG):
            raise Unreadable("it is no PNG file")
    except (OSError, Unreadable) as error:
        raise RunFolderError(
            f"{folder / name} cannot be shown: {because(error)}; run `edakari explain` again"
        ) from error
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
