"""Sources of labelled images by name: what stands in `data.source`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edakari.core.registry import Registry
from edakari.core.user_code import names_file
from edakari.tasks.sources.arrays import Arrays
from edakari.tasks.sources.folders import Files
from edakari.tasks.sources.mapped import Mapped, labelled

__all__ = ["SOURCES", "Source", "SourceReader", "named_source"]

Source = Arrays | Files | Mapped
"""Images with labels or numbers."""

SourceReader = Callable[[str], tuple[Source, Source | None]]
"""From what stands behind the colon of `data.source` to training data, and to validation data where there is some."""
SOURCES: Registry[SourceReader] = Registry(
    "source of data",
    "edakari.sources",
    {
        "embedded": "edakari.tasks.sources.shipped:both_embedded",
        "hf": "edakari.tasks.sources.hub_labels:hf_labels",
        "webdataset": "edakari.tasks.sources.hub_labels:webdataset_labels",
    },
)
"""Where labelled images come from, by the name in front of the colon of `data.source`. Image folders and .npz files are
known by their form."""


def named_source(text: str) -> tuple[Source, Source | None] | None:
    """Training and validation data of a source that is named; None where the text is a path.

    Args:
        text: "NAME", "NAME:ARGUMENT" or "path/to/file.py:name". The function of a file may give map-style data sets of
            images and labels, one or a pair; see `edakari.tasks.sources.mapped.labelled`.

    Raises:
        DataError: the source gives something else.
        EdakariError: the file or package that offers the source cannot be used.
    """
    name, _, rest = (text, "", "") if names_file(text) else text.partition(":")
    if name not in SOURCES or Path(text).exists():
        return None
    reader: Callable[..., Any] = SOURCES.named(name)
    found = reader() if names_file(text) and not inspect.signature(reader).parameters else reader(rest)
    train, val = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    where = f"data set {text!r}"
    first = train if isinstance(train, Source) else labelled(train, where)
    if val is not None and not isinstance(val, Source):
        val = labelled(val, f"{where} (validation)", first.classes)
    return first, val
