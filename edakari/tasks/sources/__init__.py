"""Sources of labelled images, one form of data a file, checked as they are read."""

from __future__ import annotations

from edakari.tasks.sources.arrays import Arrays, Labels
from edakari.tasks.sources.folders import Files, from_folder
from edakari.tasks.sources.mapped import Mapped, labelled
from edakari.tasks.sources.named import SOURCES, Source, SourceReader, named_source
from edakari.tasks.sources.npz import from_npz, read_parts
from edakari.tasks.sources.shipped import EMBEDDED, embedded

__all__ = [
    "EMBEDDED",
    "SOURCES",
    "Arrays",
    "Files",
    "Labels",
    "Mapped",
    "Source",
    "SourceReader",
    "embedded",
    "from_folder",
    "from_npz",
    "labelled",
    "named_source",
    "read_parts",
]
