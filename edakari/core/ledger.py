"""List of the files that edakari wrote into one of its folders, such as a run folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from edakari.core.reading import read_text
from edakari.errors import RunFolderError

__all__ = ["LEDGER", "MARKER", "enlist", "listed"]

MARKER = "edakari.json"
"""File that marks a folder as edakari's; only edakari writes this name."""
LEDGER = ".edakari.files"
OWN = frozenset(
    {
        *("recipe.yaml", "environment.json", "task.json", "stages", "pruned", "kept", "export", "explain", "logs"),
        *("plan.json", "network.json", "weights.safetensors", "masks.safetensors"),
        *("report.json", "report.html", "report.png"),
        *("checkpoint.safetensors", "history.json", "memory_format.json"),
    }
)
"""Files that edakari writes at the top of its folders, in addition to `work` and its successors."""


def enlist(path: Path) -> None:
    """Record a file before it is written; no effect outside edakari's folders."""
    absolute = path.absolute()
    folder = next((parent for parent in absolute.parents if (parent / MARKER).is_file()), None)
    if folder is None:
        return
    name = absolute.relative_to(folder).as_posix()
    if "\n" in name or not _removable(name) or name in listed(folder):
        return
    ledger = folder / LEDGER
    if ledger.is_symlink() or (ledger.exists() and not ledger.is_file()):
        # the folder belongs to somebody else, so edakari must not write to the target
        raise RunFolderError(
            f"{ledger} is a link or no file; edakari makes none such. Remove it, or name another folder"
        )
    with (folder / LEDGER).open("a", encoding="utf-8") as file:
        # a new line, even if a crash cut the last one short
        file.write(f"\n{name}\n")


def listed(folder: Path) -> list[str]:
    """Return the files that edakari wrote into a folder, as relative paths; paths outside it are omitted."""
    try:
        lines = read_text(folder / LEDGER).split("\n")
    except (OSError, ValueError):
        return []
    return [line for line in dict.fromkeys(lines) if _removable(line)]


def _removable(name: str) -> bool:
    parts = PurePosixPath(name).parts
    inside = bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts
    return inside and (parts[0] in OWN or (parts[0].rpartition("-")[0] or parts[0]) == "work")
