"""Sources of labelled images by name: what stands in `data.source`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edakari.core.registry import Registry
from edakari.core.user_code import names_file
from edakari.errors import DataError
from edakari.tasks.sources.arrays import Arrays
from edakari.tasks.sources.folders import Files
from edakari.tasks.sources.numbers import OwnNumbers

__all__ = ["SOURCES", "Source", "SourceReader", "named_source"]

Source = Arrays | Files | OwnNumbers
"""Images with labels or numbers."""

SourceReader = Callable[[str], tuple[Arrays | Files, Arrays | Files | None]]
"""From what stands behind the colon of `data.source` to training data, and to validation data where there is some."""
SOURCES: Registry[SourceReader] = Registry(
    "source of data", "edakari.sources", {"embedded": "edakari.tasks.sources.shipped:both_embedded"}
)
"""Where labelled images come from, by the name in front of the colon of `data.source`. Image folders and .npz files are
known by their form."""


def named_source(text: str) -> tuple[Arrays | Files, Arrays | Files | None] | None:
    """Training and validation data of a source that is named; None where the text is a path.

    Args:
        text: "NAME", "NAME:ARGUMENT" or "path/to/file.py:name".

    Raises:
        DataError: the source gives something else.
        EdakariError: the file or package that offers the source cannot be used.
    """
    name, _, rest = (text, "", "") if names_file(text) else text.partition(":")
    if name not in SOURCES or Path(text).exists():
        return None
    found = SOURCES.named(name)(rest)
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Arrays | Files)):
        raise DataError(
            f"the source of data {text!r} gave a {type(found).__name__}; it gives a pair: training data as `Arrays` or "
            "`Files`, and validation data or None"
        )
    return found
