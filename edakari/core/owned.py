"""Folders that edakari makes: identified by a marker file, and cleared only of files that edakari listed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edakari.core.files import write_json
from edakari.core.ledger import LEDGER, MARKER, enlist, listed
from edakari.core.reading import read_json

__all__ = ["clear", "enlisting", "is_free", "mark", "marker", "release", "remove_listed", "remove_parts", "sweep"]


FIRST = (MARKER, "recipe.yaml")
"""The first file of a folder, with and without markers."""


def marker(folder: Path) -> Mapping[str, Any] | None:
    """Read the marker of a folder; None if there is none from edakari."""
    try:
        content = read_json(folder / MARKER)
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and str(content.get("format", "")).startswith("edakari.")
    return content if known else None


def is_free(folder: Path, *besides: str) -> bool:
    """Return whether a folder is empty, apart from leftovers of a kill during its first write.

    Args:
        folder: the folder.
        besides: names of files that do not count.
    """
    return not folder.exists() or all(
        path.name in besides or any(_is_part(path, name) for name in FIRST) for path in folder.iterdir()
    )


def mark(folder: Path, kind: str) -> None:
    """Mark a folder as edakari's.

    Args:
        folder: the folder, which is created if missing.
        kind: kind of folder, such as "edakari.pipeline/1".
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder, *FIRST)
    work = next(name for name in ("work", *map("work-{}".format, range(2, 10**6))) if is_free(folder / name))
    write_json(folder / MARKER, {"format": kind, "work": work})


def clear(folder: Path, kind: str) -> None:
    """Remove the listed files that edakari wrote into a folder; the folder stays marked.

    After a kill during this, `marker(folder)["clearing"]` is set.
    """
    write_json(folder / MARKER, {**(marker(folder) or {}), "format": kind, "clearing": True})
    remove_listed(folder)
    (folder / LEDGER).unlink(missing_ok=True)
    mark(folder, kind)


def release(folder: Path, kind: str, *, remove: bool) -> None:
    """Clear a folder and, if nothing else is left in it, remove the marker.

    Args:
        folder: one of edakari's own.
        kind: kind of folder.
        remove: whether to remove the folder, too, if it is empty then.
    """
    clear(folder, kind)
    if all(path.name == MARKER for path in folder.iterdir()):
        (folder / MARKER).unlink()
        if remove:
            folder.rmdir()


def remove_listed(folder: Path, under: str = "") -> None:
    """Remove the listed files of a folder, and subfolders that are empty then.

    Args:
        folder: one of edakari's own.
        under: only remove files below this name; empty for all files.
    """
    sweep(folder)
    names = [name for name in _within(folder) if not under or name.startswith(f"{under}/")]
    for name in names[::-1]:
        path = folder / name
        if path.is_symlink() or path.is_file():
            path.unlink()
    parents = {parent for name in names for parent in (folder / name).parents if folder in parent.parents}
    for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        if parent.is_dir() and not parent.is_symlink() and not any(parent.iterdir()):
            parent.rmdir()


def sweep(folder: Path) -> None:
    """Remove partial files that a kill left; no other process may write into the folder."""
    remove_parts(folder, MARKER)
    for name in _within(folder):
        remove_parts((folder / name).parent, Path(name).name)


def _within(folder: Path) -> list[str]:
    """The listed files that are really inside the folder, without links: the list may come from somebody else."""
    whole = folder.resolve()
    return [name for name in listed(folder) if (folder / name).parent.resolve().is_relative_to(whole)]


@contextlib.contextmanager
def enlisting(*folders: Path) -> Iterator[None]:
    """Context that lists all files that appear or change in folders meanwhile."""
    before = _seen(folders)
    yield
    for path, found in _seen(folders).items():
        if before.get(path) != found:
            enlist(path)


def _seen(folders: tuple[Path, ...]) -> dict[Path, tuple[int, int]]:
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def remove_parts(folder: Path, *names: str) -> None:
    """Remove partial files of these names that a kill left in a folder."""
    if folder.is_dir():
        for path in folder.iterdir():
            if any(_is_part(path, name) for name in names):
                path.unlink(missing_ok=True)


def _is_part(path: Path, name: str) -> bool:
    """Return whether a file is a leftover of a killed `replacing(name)`."""
    return re.fullmatch(rf"\.{re.escape(name)}\.[a-z0-9_]{{8}}\.part", path.name) is not None and path.is_file()
