"""The fields of a section that hold plain values, checked by pydantic against the annotations of a dataclass."""

from __future__ import annotations

import dataclasses as dc
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union

from edakari.core.optional import needs
from edakari.core.plain_values import keys_of, parts_of
from edakari.errors import nearest
from edakari.pipeline.problems import Problem

with needs("train", "reading a recipe"):
    import pydantic

__all__ = ["values_of"]

CONFIG = pydantic.ConfigDict(
    extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False
)


def values_of(
    cls: type[Any], content: Mapping[str, Any], key: str, also: tuple[str, ...], made: Iterable[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The fields of plain values that a mapping names, and what is wrong with them."""
    try:
        section = _section(cls, *made).model_validate(dict(content))
    except pydantic.ValidationError as error:
        known = [*also, *keys_of(cls)]
        return {}, _one_each(_problem(known, entry, key) for entry in error.errors())
    return {name: getattr(section, name) for name in content}, []


def _section(cls: Any, *without: str) -> type[pydantic.BaseModel]:
    """The dataclass as pydantic checks it: the ranges that its annotations say, and numbers that are numbers."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    elsewhere = {*parts_of(cls), *without}
    for field in dc.fields(cls):
        if field.name in elsewhere or field.name not in keys_of(cls):
            continue
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
