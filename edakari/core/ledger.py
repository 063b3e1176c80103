"""The list of files that edakari wrote into a folder of its own, such as a run folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from edakari.core.reading import read_text
from edakari.errors import RunFolderError

__all__ = ["LEDGER", "MARKER", "enlist", "listed"]

MARKER = "edakari.json"
"""Only edakari writes a file of this name; it makes a folder one of edakari's own."""
LEDGER = ".edakari.files"
OWN = frozenset(
    {
        *("recipe.yaml", "environment.json", "stages", "pruned", "kept", "export", "explain"),
        *("plan.json", "network.json", "weights.safetensors", "report.json", "report.html", "report.png"),
        *("checkpoint.safetensors", "history.json"),
    }
)
"""What edakari writes at the top of its folders, beside `work` and its successors."""


def enlist(path: Path) -> None:
    """Note a file that is about to be written; does nothing outside of edakari's own folders."""
    absolute = path.absolute()
    folder = next((parent for parent in absolute.parents if (parent / MARKER).is_file()), None)
    if folder is None:
        return
    name = absolute.relative_to(folder).as_posix()
    if "\n" in name or not _removable(name) or name in listed(folder):
        return
    ledger = folder / LEDGER
    if ledger.is_symlink() or (ledger.exists() and not ledger.is_file()):
        # a folder of somebody else's: what it leads to is not ours to write
        raise RunFolderError(
            f"{ledger} is a link or no file; edakari makes none such. Remove it, or name another folder"
        )
    with (folder / LEDGER).open("a", encoding="utf-8") as file:
        # a line of its own even where the last one was cut short by a crash
        file.write(f"\n{name}\n")


def listed(folder: Path) -> list[str]:
    """The files of a folder that edakari wrote, as relative paths; those that lead elsewhere are left out."""
    try:
        lines = read_text(folder / LEDGER).split("\n")
    except (OSError, ValueError):
        return []
    return [line for line in dict.fromkeys(lines) if _removable(line)]


def _removable(name: str) -> bool:
    parts = PurePosixPath(name).parts
    inside = bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts
    return inside and (parts[0] in OWN or (parts[0].rpartition("-")[0] or parts[0]) == "work")
