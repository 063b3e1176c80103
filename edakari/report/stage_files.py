"""The structure of the files in a run folder; a file that was edited by hand raises an error that names it."""

from __future__ import annotations

import dataclasses as dc
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typing_extensions import TypedDict

from edakari.core.optional import needs
from edakari.core.reading import because, inside, read_json
from edakari.errors import RunFolderError

if TYPE_CHECKING:
    from edakari.results import Results, StageResult

with needs("report", "a report"):
    import pydantic

__all__ = ["check_events", "check_explanation", "read_results", "result_from", "stored"]

T = TypeVar("T")
CONFIG = pydantic.ConfigDict(extra="allow", strict=True)
AGAIN = "remove it to run its stage again"


class Picture(TypedDict):
    """A picture of an explanation."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    file: str
    title: str
    note: str


class Explained(TypedDict):
    """An explanation."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    name: str
    title: str
    text: str
    pictures: list[Picture]


class Unit(TypedDict):
    """A group of a search."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    name: str
    size: Annotated[int, pydantic.Field(ge=1)]
    kernel: list[int]
    map: list[int]


class SearchStep(TypedDict):
    """An event of a search."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    epoch: int
    executed: bool
    macs: float
    units: dict[str, int]
    gates: list[int]
    dropped: list[str]
    metrics: dict[str, float]


class Search(TypedDict):
    """A search."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    edges: Annotated[list[Annotated[float, pydantic.Field(gt=0)]], pydantic.Field(min_length=2)]
    threshold: float
    macs: Annotated[float, pydantic.Field(gt=0)]
    groups: list[Unit]
    events: list[SearchStep]


class MaskStep(TypedDict):
    """A choice of masks."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    epoch: int
    sparsity: float
    weights: int
    masked: int
    returned: int
    layers: dict[str, float]
    metrics: dict[str, float]


class Loss(TypedDict):
    """The loss of an epoch."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    epoch: int
    loss: float


class GroupScores(TypedDict):
    """How the scores of a group are spread over its channels, as fractions of their sum."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    name: str
    weaker_half: Annotated[float, pydantic.Field(ge=0, le=1)]
    removed: Annotated[float, pydantic.Field(ge=0, le=1)]


EVENTS: Mapping[str, Any] = {
    "search": Search,
    "masks": list[MaskStep],
    "losses": list[Loss],
    "scores": list[GroupScores],
}


def result_from(kind: type[T], content: Any, path: Path) -> T:
    """Make the result of a stage from the content of its file.

    Args:
        kind: class of the result, see `edakari.results`.
        content: content of the file.
        path: path of the file, for the message.

    Raises:
        RunFolderError: a key is missing or has a wrong type; says which.
    """
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} holds a {type(content).__name__}, not a mapping; was it edited? Or {AGAIN}")
    found: T = _checked(kind, content, path, AGAIN)
    return found


def stored(result: StageResult) -> dict[str, Any]:
    """Convert a result to the values that JSON holds; `result_from` is the inverse."""
    return dc.asdict(result)


def read_results(folder: Path) -> Results:
    """Read the results of the finished stages of a run.

    Raises:
        RunFolderError: no stage is finished, or a file is damaged.
    """
    from edakari.results import STAGES, Results  # this imports torch

    found = {}
    for name, kind in STAGES.items():
        path = folder / "stages" / f"{name}.json"
        if path.exists():
            found[name] = result_from(kind, _read(folder, path), path)
    if "trace" not in found:
        raise RunFolderError(f"{folder} holds no results yet; run its recipe with `edakari prune` first")
    return Results(**found)  # type: ignore[arg-type]


def check_explanation(content: Any, path: Path) -> dict[str, Any]:
    """Check the content of an explanation's file, and return it.

    Raises:
        RunFolderError: a key is missing or has a wrong type; says which.
    """
    _checked(Explained, content, path, "run `edakari explain` again")
    found: dict[str, Any] = content
    return found


def check_events(name: str, content: Any, path: Path) -> Any:
    """Check the content of a file about a search, masks or scores, and return it.

    Args:
        name: "search", "masks", "losses" or "scores".
        content: content of the file.
        path: path of the file, for the message.

    Raises:
        RunFolderError: a key is missing or has a wrong type; says which.
    """
    _checked(EVENTS[name], content, path, "remove it to have a report without it")
    return content


def _read(folder: Path, path: Path) -> Any:
    try:
        return read_json(inside(folder, path.relative_to(folder)))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {because(error)}; {AGAIN}") from error


@functools.cache
def _adapter(kind: Any) -> Any:
    return pydantic.TypeAdapter(kind)


def _checked(kind: Any, content: Any, path: Path, hint: str) -> Any:
    try:
        # as JSON: there a list may become a tuple, and no other type is converted
        return _adapter(kind).validate_json(json.dumps(content), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "its content"
        found = "is missing" if first["type"] == "missing" else f"{first['msg']}, found {str(first['input'])[:60]}"
        raise RunFolderError(f"{path} has wrong content: {key}: {found}; {hint}") from error
