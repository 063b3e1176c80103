"""Checking a part of a recipe against the dataclass that it becomes."""

from __future__ import annotations

import dataclasses as dc
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, Union

from edakari.core.optional import needs
from edakari.errors import nearest

with needs("train", "reading a recipe"):
    import pydantic

__all__ = ["Problem", "check", "plain"]

T = TypeVar("T")
CONFIG = pydantic.ConfigDict(
    extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False
)


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
    """The dataclass as pydantic checks it: the ranges that its annotations say, and numbers that are numbers."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dc.fields(cls):
        hint = _strict(hints[field.name])
        if field.default_factory is not dc.MISSING:
            fields[field.name] = (hint, pydantic.Field(default_factory=field.default_factory))
        else:
            fields[field.name] = (hint, ... if field.default is dc.MISSING else field.default)
    model: type[pydantic.BaseModel] = pydantic.create_model(cls.__name__, __config__=CONFIG, **fields)
    return model


def _strict(hint: Any) -> Any:
    """The annotation with texts, numbers and truth values that are taken as they are: '64' is no number, true no 1."""
    if hint in (int, float, bool, str):
        return Annotated[hint, pydantic.Strict()]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return Annotated[_strict(arguments[0]), *arguments[1:]]
    if origin in (Union, types.UnionType):
        return Union[*map(_strict, arguments)]
    if origin is Mapping:
        return Mapping[*map(_strict, arguments)]  # type: ignore[misc]
    if origin is tuple:
        return tuple[*(each if each is Ellipsis else _strict(each) for each in arguments)]  # type: ignore[misc]
    return hint


def _names(cls: Any) -> list[str]:
    return [field.name for field in dc.fields(cls)]


def _problem(known: list[str], error: Any, key: str) -> Problem:
    location = error["loc"]
    where = ".".join([key, str(location[0])]) if key else str(location[0])
    if error["type"] == "extra_forbidden":
        return Problem(where, unknown_key(str(location[0]), known))
    if error["type"] == "missing":
        return Problem(where, "is missing")
    if len(location) > 1 and isinstance(location[1], int):
        where = f"{where}[{location[1]}]"
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
