"""What the files of a run folder hold: one that was edited by hand is an error that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

import pydantic
from typing_extensions import TypedDict

from edakari.errors import RunFolderError

__all__ = ["check_explanation", "check_stage"]

CONFIG = pydantic.ConfigDict(extra="allow", strict=True)
Above = Annotated[float, pydantic.Field(gt=0)]
Count = Annotated[int, pydantic.Field(ge=0)]
Figures = dict[str, float]


class Anything(TypedDict):
    """What every stage has."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    seconds: NotRequired[Annotated[float, pydantic.Field(ge=0)]]


class Costs(TypedDict):
    """Costs of a network."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    macs: Above
    params: Above
    activations: Annotated[float, pydantic.Field(ge=0)]


class Group(TypedDict):
    """A group of channels."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    name: str
    kind: str
    size: Annotated[int, pydantic.Field(gt=0)]


class UnprunableEntry(TypedDict):
    """What stays."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    where: str
    size: Count
    reason: str


class Timing(TypedDict):
    """How long a network takes."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    median_ms: Above
    spread: Annotated[float, pydantic.Field(ge=0)]


class Pruned(Timing):
    """How long it takes beside the dense one."""

    ratio: Above


class Pair(TypedDict):
    """Two networks timed in turns."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    dense: Timing
    pruned: Timing


class BudgetPair(TypedDict):
    """Two networks timed in turns for the budget."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    dense: Timing
    pruned: Pruned


class FinishedPair(BudgetPair):
    """The finished network beside the dense one."""

    relative_error: float


class Round(TypedDict):
    """One round of meeting a latency."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    predicted_ms: float
    timing: BudgetPair
    relative_error: float


class Met(TypedDict):
    """How a latency was met."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    predicted_ms: float
    relative_error: float
    rounds: Annotated[list[Round], pydantic.Field(min_length=1)]


class Trace(Anything):
    """Of the stage `trace`."""

    weights: NotRequired[str]
    costs: Costs
    bytes: Above
    groups: list[Group]
    unprunable: list[UnprunableEntry]
    uncounted: dict[str, Count]
    budget: str
    limits: NotRequired[Figures]


class Threads(TypedDict):
    """How a latency is measured."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    threads: Count


class Latency(Anything):
    """Of the stage `latency`."""

    limits: Figures


class Timed(Latency):
    """Of the stage `latency` where the budget has one."""

    dense: Timing
    runtime: str
    batch: Count
    settings: Threads
    fit: dict[str, Any] | None


class Dense(Anything):
    """Of the stage `dense`."""

    metric: str
    metrics: Figures


class Tokens(TypedDict):
    """Tokens at a block."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    block: str
    kept: Count
    of: Annotated[int, pydantic.Field(gt=0)]


def _entry(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("stage"), str):
        raise ValueError("its stage is no text")
    return value


def _epoch(value: dict[str, Any]) -> dict[str, Any]:
    if missing := {"epoch", "loss"} - value.keys():
        raise ValueError(f"it has no {min(missing)}")
    return value


Entry = Annotated[dict[str, float | str], pydantic.AfterValidator(_entry)]
"""What a method logged: its stage, and figures."""
Epoch = Annotated[Figures, pydantic.AfterValidator(_epoch)]
"""Figures of an epoch."""


class Prune(Anything):
    """Of the stage `prune`."""

    method: str
    paper: str
    plan: str
    sizes: dict[str, Count]
    predicted: Costs
    log: list[Entry]
    tokens: NotRequired[list[Tokens]]
    latency: NotRequired[Met | None]


class Check(Anything):
    """Of the stage `check`."""

    difference: Annotated[float, pydantic.Field(ge=0)]
    costs: Costs
    bytes: Above
    metrics: Figures


class Finetune(Anything):
    """Of the stage `finetune`."""

    metrics: Annotated[Figures, pydantic.Field(min_length=1)]
    epochs: list[Epoch]


class Measure(Anything):
    """Of the stage `measure`."""

    runtimes: dict[str, Pair]
    batch: NotRequired[Count]
    threads: NotRequired[Count]
    latency: NotRequired[FinishedPair | None]


class File(TypedDict):
    """An exported file."""

    __pydantic_config__ = CONFIG  # type: ignore[misc]
    path: str
    network: str
    bytes: Count
    absolute: float
    relative: float


class Export(Anything):
    """Of the stage `export`."""

    files: list[File]


class Report(Anything):
    """Of the stage `report`."""

    page: str


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


def _judged(value: dict[str, Any]) -> dict[str, Any]:
    if value["metric"] not in value["metrics"]:
        raise ValueError(f"its metric {value['metric']!r} is not among its metrics")
    return value


STAGES: dict[str, Any] = {
    "trace": Trace,
    "latency": Latency,
    "dense": Annotated[Dense, pydantic.AfterValidator(_judged)],
    "prune": Prune,
    "check": Check,
    "finetune": Finetune,
    "measure": Measure,
    "export": Export,
    "report": Report,
}


def check_stage(name: str, content: Any, path: Path) -> dict[str, Any]:
    """The result of a stage, if it is one.

    Args:
        name: of the stage.
        content: of its file.
        path: of the file, for the message.

    Raises:
        RunFolderError: a key is missing or of another kind; says which.
    """
    timed = name == "latency" and isinstance(content, dict) and "dense" in content
    return _checked(Timed if timed else STAGES.get(name, Anything), content, path, "remove it to run its stage again")


def check_explanation(content: Any, path: Path) -> dict[str, Any]:
    """The content of an explanation's file, if it is one; see `check_stage`."""
    return _checked(Explained, content, path, "run `edakari explain` again")


def _checked(kind: Any, content: Any, path: Path, hint: str) -> dict[str, Any]:
    try:
        pydantic.TypeAdapter(kind).validate_python(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "its content"
        found = "is missing" if first["type"] == "missing" else f"{first['msg']}, found {str(first['input'])[:60]}"
        raise RunFolderError(f"{path} was not written so: {key}: {found}; {hint}") from error
    result: dict[str, Any] = content
    return result
