"""Checks a section of a recipe against its dataclass."""

from __future__ import annotations

import dataclasses as dc
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, Union

from edakari.core.optional import needs
from edakari.core.registry import Registry
from edakari.core.settings import dataclass_of, holds_part, registry_of
from edakari.errors import EdakariError, UntrustedCode, nearest
from edakari.models import check_code

with needs("train", "reading a recipe"):
    import pydantic

__all__ = ["Permit", "Problem", "check", "no_code", "plain"]

T = TypeVar("T")
CONFIG = pydantic.ConfigDict(
    extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False
)


@dc.dataclass(frozen=True, slots=True)
class Problem:
    """A problem with one key of a recipe."""

    key: str
    text: str


Permit = Callable[[str, str], None]
"""Takes a name such as `nets.py:make` and what it names; raises `UntrustedCode` if its code must not run."""


def no_code(name: str, what: str) -> None:
    """Permit no code except what the user has trusted before."""
    check_code(name, what, "the recipe", trust_code=False)


def check(
    cls: type[T],
    content: Any,
    key: str,
    also: tuple[str, ...] = (),
    permit: Permit = no_code,
    default: T | None = None,
    made: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[T | None, list[Problem]]:
    """Make a dataclass from a mapping, or list what is wrong with the mapping.

    Args:
        cls: a dataclass of plain values.
        content: fields of the dataclass, as read from YAML.
        key: dotted path of the mapping in the recipe.
        also: further legal keys, read elsewhere; for the list of known ones.
        permit: function that is called before a Python file in the mapping runs.
        default: dataclass with the values of missing fields; None takes the class's own defaults.
        made: fields that were read elsewhere; a field with a problem is None.

    Raises:
        UntrustedCode: the mapping names Python code that must not run.
    """
    if not isinstance(content, Mapping):
        return None, [Problem(key, f"must be a mapping of keys ({', '.join(_names(cls))}), found {content!r}")]
    nested = {name: hint for name, hint in _nested(cls).items() if name not in made}
    flat = {name: value for name, value in content.items() if name not in nested}
    values, problems = _values(cls, flat, key, also, made)
    for name, hint in nested.items():
        if name in content or _default_of(cls, name) is dc.MISSING:
            written = content.get(name)
            values[name], found = _part(hint, written, f"{key}.{name}" if key else name, permit, cls, name)
            problems += found
    problems += _named(cls, values, key, permit)
    if problems or None in made.values():
        return None, problems
    values |= made
    try:
        return (cls(**values) if default is None else dc.replace(default, **values)), []  # type: ignore[type-var]
    except ValueError as error:
        return None, [Problem(key, str(error))]


def _values(
    cls: type[Any], content: Mapping[str, Any], key: str, also: tuple[str, ...], made: Iterable[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """The fields of plain values in a mapping, and the problems with them."""
    try:
        section = _section(cls, *made).model_validate(dict(content))
    except pydantic.ValidationError as error:
        known = [*also, *_names(cls)]
        return {}, _one_each(_problem(known, entry, key) for entry in error.errors())
    return {name: getattr(section, name) for name in content}, []


def _part(hint: Any, content: Any, key: str, permit: Permit, cls: type[Any], name: str) -> tuple[Any, list[Problem]]:
    """A nested dataclass, or an entry of a registry: by its name, or by a mapping of its name and its settings."""
    default = _default_of(cls, name)
    registry = registry_of(hint)
    if registry is None:
        wanted = dataclass_of(hint)
        if content is None and type(None) in typing.get_args(hint):
            return None, []
        content = {} if content is None else content  # an empty section
        if isinstance(content, str) and "name" in _names(wanted):
            content = {"name": content}
        return check(wanted, content, key, permit=permit, default=default if isinstance(default, wanted) else None)
    if content is None and type(None) in typing.get_args(typing.get_args(hint)[0]):
        return None, []
    settings = {"name": content} if isinstance(content, str) else content
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        known = ", ".join(registry)
        return None, [
            Problem(key, f"must name a {registry.what} ({known}, or path/to/file.py:NAME), found {content!r}")
        ]
    named = settings["name"]
    try:
        permit(named, registry.what)
        thing = registry.named(named)
        return _made(registry, thing, {k: v for k, v in settings.items() if k != "name"}, key, permit)
    except UntrustedCode:
        raise
    except EdakariError as error:
        return None, [Problem(f"{key}.name" if isinstance(content, Mapping) else key, str(error))]


def _made(
    registry: Registry[Any], thing: Any, settings: Mapping[str, Any], key: str, permit: Permit
) -> tuple[Any, list[Problem]]:
    if dc.is_dataclass(thing) and isinstance(thing, type):
        part, problems = check(thing, settings, key, ("name",), permit)
    elif settings:
        name = registry.name_of(thing)
        return None, [Problem(key, f"{registry.what} {name!r} has no settings, found {', '.join(map(str, settings))}")]
    else:
        part, problems = thing() if registry.makes(thing) else thing, []
    if not problems:
        registry.require(part, getattr(thing, "__name__", repr(thing)))
    return part, problems


def _named(cls: type[Any], values: Mapping[str, Any], key: str, permit: Permit) -> Iterator[Problem]:
    """Problems with names that are missing in the registry of their field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for name, value in values.items():
        several = typing.get_origin(hints[name]) is tuple
        registry = registry_of(typing.get_args(hints[name])[0] if several else hints[name])
        if registry is None or holds_part(hints[name]):
            continue
        for index, each in enumerate(value if several else [value]):
            permit(each, registry.what)
            where = f"{key}.{name}" if key else name
            if each not in registry:
                yield Problem(f"{where}[{index}]" if several else where, str(registry.unknown(each)))


def _nested(cls: type[Any]) -> dict[str, Any]:
    """The fields that hold settings, and their annotations."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: hints[field.name]
        for field in dc.fields(cls)
        if holds_part(hints[field.name]) or dataclass_of(hints[field.name]) is not None
    }


def _default_of(cls: type[Any], name: str) -> Any:
    field = next(field for field in dc.fields(cls) if field.name == name)
    return field.default_factory() if field.default_factory is not dc.MISSING else field.default


def plain(value: Any) -> dict[str, Any]:
    """Convert a dataclass to values that YAML and JSON can hold, defaults included."""
    nested = _nested(type(value))
    flat = {name: getattr(value, name) for name in _names(type(value)) if name not in nested}
    filled: dict[str, Any] = _section(type(value))(**flat).model_dump(mode="json")
    filled |= {name: _plain_part(hint, getattr(value, name)) for name, hint in nested.items()}
    return {name: filled[name] for name in _names(type(value))}


def _plain_part(hint: Any, part: Any) -> Any:
    """A nested dataclass, or an entry of a registry with its name."""
    registry = registry_of(hint)
    if registry is None or part is None:
        return None if part is None else plain(part)
    name = registry.name_of(part)
    if name is None:
        raise EdakariError(
            f"a recipe cannot hold {part!r}: no {registry.what} of that class has a name; register it under one"
        )
    settings = plain(part) if dc.is_dataclass(part) else {}
    return {"name": name, **settings} if settings else name


def _section(cls: Any, *without: str) -> type[pydantic.BaseModel]:
    """The dataclass as a pydantic model: with the ranges of its annotations, and without type conversion."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: dict[str, Any] = {}
    elsewhere = {*_nested(cls), *without}
    for field in dc.fields(cls):
        if field.name in elsewhere or field.name not in _names(cls):
            continue
        hint = _strict(hints[field.name])
        if field.default_factory is not dc.MISSING:
            fields[field.name] = (hint, pydantic.Field(default_factory=field.default_factory))
        else:
            fields[field.name] = (hint, ... if field.default is dc.MISSING else field.default)
    model: type[pydantic.BaseModel] = pydantic.create_model(cls.__name__, __config__=CONFIG, **fields)
    return model


def _strict(hint: Any) -> Any:
    """The annotation without type conversion of texts, numbers and truth values: '64' is no number, true is not 1."""
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
    """The keys of a section; fields that are not compared describe the section and are no part of it."""
    return [field.name for field in dc.fields(cls) if field.compare]


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
    """Message about an unknown key."""
    hint = nearest(name, known)
    return "unknown key" + (f"; did you mean {hint!r}?" if hint else ".") + f" Known here: {', '.join(known)}"


def _one_each(problems: Iterable[Problem]) -> list[Problem]:
    """The first problem of each key: a value that fits no part of a union fails once for each part."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.key, problem)
    return list(first.values())
