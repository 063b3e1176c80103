"""Checking a part of a recipe against the dataclass that it becomes."""

from __future__ import annotations

import dataclasses as dc
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import pydantic

from edakari.cost.latency.calibrate import FEWEST
from edakari.errors import nearest

__all__ = ["Problem", "check", "plain"]

T = TypeVar("T")

RANGES: Mapping[str, Any] = {
    "epochs": pydantic.Field(ge=0),
    "lr": pydantic.Field(gt=0),
    "momentum": pydantic.Field(ge=0, lt=1),
    "weight_decay": pydantic.Field(ge=0),
    "warmup": pydantic.Field(ge=0),
    "final_lr": pydantic.Field(ge=0),
    "drop": pydantic.Field(gt=0, le=1),
    "accumulate": pydantic.Field(ge=1),
    "clip": pydantic.Field(ge=0),
    "ema": pydantic.Field(ge=0, lt=1),
    "step": pydantic.Field(ge=1),
    "steps": pydantic.Field(ge=1),
    "least": pydantic.Field(gt=0),
    "weight": pydantic.Field(ge=0, le=1),
    "temperature": pydantic.Field(gt=0),
    "tolerance": pydantic.Field(gt=0),
    "top": pydantic.Field(gt=0),
    "views": pydantic.Field(ge=1),
    "teachers": pydantic.Field(ge=1),
    "share": pydantic.Field(gt=0),
    "batch": pydantic.Field(ge=1),
    "threads": pydantic.Field(ge=0),
    "repeats": pydantic.Field(ge=1),
    "networks": pydantic.Field(ge=FEWEST),
    "spread": pydantic.Field(gt=0),
}
"""Which values make sense, by the name of the field."""


@dc.dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at one place of a recipe."""

    key: str
    text: str


def check(cls: type[T], content: Any, key: str, also: tuple[str, ...] = ()) -> tuple[T | None, list[Problem]]:
    """A dataclass from a mapping, or what is wrong with the mapping.

    Args:
        cls: a dataclass of plain values.
        content: mapping of its fields, as read from YAML.
        key: dotted path of the mapping in the recipe.
        also: keys that may stand beside the fields, read elsewhere; for the list of known ones.
    """
    if not isinstance(content, Mapping):
        return None, [Problem(key, f"must be a mapping of keys ({', '.join(_names(cls))}), found {content!r}")]
    try:
        section = _section(cls).model_validate(dict(content))
    except pydantic.ValidationError as error:
        known = [*also, *_names(cls)]
        return None, _one_each(_problem(known, entry, key) for entry in error.errors())
    try:
        return cls(**{name: getattr(section, name) for name in _names(cls)}), []
    except ValueError as error:
        return None, [Problem(key, str(error))]


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as values that YAML and JSON can hold, defaults included."""
    section = _section(type(value))
    filled: dict[str, Any] = section(**{name: getattr(value, name) for name in _names(type(value))}).model_dump(
        mode="json"
    )
    return filled


def _section(cls: Any) -> type[pydantic.BaseModel]:
    hints = typing.get_type_hints(cls)
    fields: dict[str, Any] = {}
    for field in dc.fields(cls):
        hint = Annotated[hints[field.name], RANGES[field.name]] if _ranged(field.name, hints) else hints[field.name]
        if field.default_factory is not dc.MISSING:
            fields[field.name] = (hint, pydantic.Field(default_factory=field.default_factory))
        else:
            fields[field.name] = (hint, ... if field.default is dc.MISSING else field.default)
    config = pydantic.ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=())
    model: type[pydantic.BaseModel] = pydantic.create_model(cls.__name__, __config__=config, **fields)
    return model


def _ranged(name: str, hints: Mapping[str, Any]) -> bool:
    numbers = (int, float)
    return name in RANGES and (hints[name] in numbers or set(typing.get_args(hints[name])) <= set(numbers) != set())


def _names(cls: Any) -> list[str]:
    return [field.name for field in dc.fields(cls)]


def _problem(known: list[str], error: Any, key: str) -> Problem:
    place = error["loc"]
    where = ".".join([key, str(place[0])]) if key else str(place[0])
    if error["type"] == "extra_forbidden":
        return Problem(where, unknown_key(str(place[0]), known))
    if error["type"] == "missing":
        return Problem(where, "is missing")
    if len(place) > 1 and isinstance(place[1], int):
        where = f"{where}[{place[1]}]"
    text = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return Problem(where, f"{text}, found {error['input']!r}")


def unknown_key(name: str, known: list[str]) -> str:
    """What to say of a key that there is not."""
    hint = nearest(name, known)
    return "unknown key" + (f"; did you mean {hint!r}?" if hint else ".") + f" Known here: {', '.join(known)}"


def _one_each(problems: Iterable[Problem]) -> list[Problem]:
    """One problem for each place: a value that fits no part of a union fails once for each."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.key, problem)
    return list(first.values())
