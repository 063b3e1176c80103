"""Settings as plain values, which YAML and JSON can hold."""

from __future__ import annotations

import dataclasses as dc
import enum
import numbers
import typing
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from edakari.core.settings import dataclass_of, holds_part, registry_of
from edakari.errors import EdakariError

__all__ = ["keys_of", "parts_of", "plain"]


def keys_of(cls: Any) -> list[str]:
    """The keys of a section; fields that are not compared say something about it, and are not part of it."""
    return [field.name for field in dc.fields(cls) if field.compare]


def parts_of(cls: type[Any]) -> dict[str, Any]:
    """The fields that hold settings of their own, and their annotations."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: hints[field.name]
        for field in dc.fields(cls)
        if holds_part(hints[field.name]) or dataclass_of(hints[field.name]) is not None
    }


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as values that YAML and JSON can hold, defaults included.

    Raises:
        EdakariError: a field holds something else; says which.
    """
    cls = type(value)
    parts = parts_of(cls)
    return {
        name: _part(parts[name], getattr(value, name))
        if name in parts
        else _value(getattr(value, name), f"{cls.__name__}.{name}")
        for name in keys_of(cls)
    }


def _part(hint: Any, part: Any) -> Any:
    """A nested dataclass, or a thing of a registry with its name."""
    registry = registry_of(hint)
    if registry is None and isinstance(part, Mapping):  # several settings by their names
        return {name: plain(each) for name, each in part.items()}
    if registry is None or part is None:
        return None if part is None else plain(part)
    name = registry.name_of(part)
    if name is None:
        raise EdakariError(
            f"a recipe cannot hold {part!r}: no {registry.what} of that class has a name; register it under one"
        )
    settings = plain(part) if dc.is_dataclass(part) else {}
    return {"name": name, **settings} if settings else name


def _value(value: Any, where: str) -> Any:
    if isinstance(value, enum.Enum):
        return _value(value.value, where)
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Real):  # numpy's numbers too, which YAML does not know
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _value(below, where) for key, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(each, where) for each in value]
    if dc.is_dataclass(value) and not isinstance(value, type):
        return plain(value)
    raise EdakariError(f"a recipe cannot hold {where}: it is no text, number, flag, list or mapping, found {value!r}")
