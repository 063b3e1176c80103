"""Lists of classes in text files: names, and the numbers or colours that stand for them in label maps."""

from __future__ import annotations

import dataclasses as dc
import re
from pathlib import Path

from edakari.errors import DataError
from edakari.tasks.sources.label_maps import Numbering
from edakari.tasks.sources.listing import read_lines

__all__ = ["ClassList", "read_class_list"]

IGNORED = re.compile(r"^(void|unlabell?ed|ignored?)\b|\(ignored?\)$", re.IGNORECASE)
"""Names of what is no class: its pixels do not count."""
FORMS = (
    re.compile(r"^(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)[\s,]+(?P<name>\S.*)$"),
    re.compile(r"^(?P<name>[^:,]+)[,:]\s*(?P<r>\d+)\s*,\s*(?P<g>\d+)\s*,\s*(?P<b>\d+)\s*(:.*)?$"),
)
"""Lines with colours: "64 128 64 Animal", "Animal,64,128,64" and "Animal:64,128,64::"."""


@dc.dataclass(frozen=True)
class ClassList:
    """Names of classes as a file lists them.

    Args:
        names: all names, those that do not count too.
        colours: colour of each, 24 bits; empty where the numbers of lines stand in maps.
    """

    names: tuple[str, ...]
    colours: tuple[int, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that count."""
        return tuple(name for name in self.names if not IGNORED.search(name))

    @property
    def numbering(self) -> Numbering:
        """From what maps store to labels."""
        label = {name: at for at, name in enumerate(self.classes)}
        stored = self.colours or range(len(self.names))
        values = {value: label.get(name, -1) for value, name in zip(stored, self.names, strict=True)}
        return Numbering.of(values, bool(self.colours))


def read_class_list(path: Path, where: str) -> ClassList:
    """Read a list of classes, one a line: a name, or a name and a colour (red, green, blue).

    Args:
        path: the file.
        where: the source, as the subject of a sentence.

    Raises:
        DataError: the file cannot be read, or names or colours are missing or not unique.
    """
    lines = [line for line in read_lines(path, where) if not line.startswith("#")]
    if lines and path.suffix == ".csv" and not any(form.match(lines[0]) for form in FORMS):
        lines = lines[1:]  # a header
    found = [next((match for form in FORMS if (match := form.match(line))), None) for line in lines]
    if not any(found):
        names, colours = tuple(lines), ()
    else:
        missing = next((line for line, match in zip(lines, found, strict=True) if match is None), None)
        if missing is not None:
            raise DataError(f"{where}: {path} has colours, but none in the line {missing[:60]!r}")
        matches = [match for match in found if match is not None]
        names = tuple(match["name"].strip() for match in matches)
        colours = tuple(_colour(path, match) for match in matches)  # type: ignore[assignment]
    for what, each in (("name", names), ("colour", colours)):
        if len(set(each)) < len(each):
            raise DataError(f"{where}: {path} lists a {what} twice")
    if not names:
        raise DataError(f"{where}: {path} lists no classes")
    return ClassList(names, colours)


def _colour(path: Path, match: re.Match[str]) -> int:
    parts = [int(match[key]) for key in "rgb"]
    if max(parts) > 255:
        raise DataError(f"{path}: a colour has three numbers from 0 to 255, found {parts}")
    return (parts[0] << 16) + (parts[1] << 8) + parts[2]
