"""Checks a section of a recipe against its dataclass."""

from __future__ import annotations

import dataclasses as dc
import typing
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from edakari.core.plain_values import keys_of, parts_of
from edakari.core.registry import Registry
from edakari.core.settings import dataclass_of, holds_part, named_parts, registry_of
from edakari.errors import EdakariError, UntrustedCode
from edakari.models import check_code
from edakari.pipeline.problems import Problem

__all__ = ["Permit", "check", "no_code"]

T = TypeVar("T")

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
    from edakari.pipeline.plain_fields import values_of  # which needs an extra

    if not isinstance(content, Mapping):
        return None, [Problem(key, f"must be a mapping of keys ({', '.join(keys_of(cls))}), found {content!r}")]
    nested = {name: hint for name, hint in parts_of(cls).items() if name not in made}
    flat = {name: value for name, value in content.items() if name not in nested}
    values, problems = values_of(cls, flat, key, also, made)
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


def _part(hint: Any, content: Any, key: str, permit: Permit, cls: type[Any], name: str) -> tuple[Any, list[Problem]]:
    """A nested dataclass, or an entry of a registry: by its name, or by a mapping of its name and its settings."""
    default = _default_of(cls, name)
    registry = registry_of(hint)
    if registry is None:
        wanted = dataclass_of(hint)
        if content is None and type(None) in typing.get_args(hint):
            return None, []
        content = {} if content is None else content  # an empty section
        if named_parts(hint, content):
            return _several(wanted, content, key, permit)
        if isinstance(content, str) and "name" in keys_of(wanted):
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


def _several(wanted: Any, content: Mapping[str, Any], key: str, permit: Permit) -> tuple[dict[str, Any], list[Problem]]:
    """Several nested dataclasses by their names."""
    found = {name: check(wanted, each or {}, f"{key}.{name}", permit=permit) for name, each in content.items()}
    return {name: part for name, (part, _) in found.items()}, [each for _, more in found.values() for each in more]


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


def _default_of(cls: type[Any], name: str) -> Any:
    field = next(field for field in dc.fields(cls) if field.name == name)
    return field.default_factory() if field.default_factory is not dc.MISSING else field.default
