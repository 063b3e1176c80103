"""What the settings of a class are: their keys, types, ranges, defaults, and meanings as its docstring says them."""

from __future__ import annotations

import dataclasses as dc
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Interval, Le, Lt

from edakari.core.registry import Registry
from edakari.core.settings import dataclass_of, holds_part, registry_of

__all__ = ["Setting", "paragraphs", "settings_of"]

BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
ENDLESS = 1e37
"""Bounds above it are those of number formats, of no interest to a reader."""
WORDS: Mapping[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
PLURALS: Mapping[Any, str] = {int: "integers", float: "numbers", str: "texts"}


@dc.dataclass(frozen=True)
class Setting:
    """One setting, in words; names and values stand between backquotes.

    Args:
        key: its key in a recipe, below that of the class.
        type: its type and range.
        default: its default, as YAML would say it; "needed" if there is none.
        meaning: what it does, as a sentence; empty if the docstring does not say it.
    """

    key: str
    type: str
    default: str
    meaning: str


def settings_of(cls: type[Any]) -> list[Setting]:
    """Return the settings of a dataclass; those of a nested one, or of one that may be left out, follow its key.

    Args:
        cls: the dataclass; fields that it inherits from another dataclass belong to that one.
    """
    return list(_settings(cls, cls, ""))


def _settings(cls: type[Any], made: Any, prefix: str) -> Iterator[Setting]:
    """The settings below a key; `made` has the defaults: the class, or an instance."""
    hints, meanings = typing.get_type_hints(cls, include_extras=True), arguments(cls)
    inherited = {field.name for base in cls.__mro__[1:] if dc.is_dataclass(base) for field in dc.fields(base)}
    for field in dc.fields(cls):
        if field.name in inherited:
            continue
        hint, key = hints[field.name], f"{prefix}{field.name}"
        default = field if isinstance(made, type) else getattr(made, field.name)
        yield Setting(key, type_words(hint), default_of(default, hint), meanings.get(field.name, ""))
        nested = default.default if isinstance(default, dc.Field) else default
        section = dataclass_of(hint)
        if section is not None and (nested is None or dc.is_dataclass(nested)):
            yield from _settings(section, nested or section, f"{key}.")


def paragraphs(cls: type[Any]) -> list[str]:
    """The paragraphs of a class's docstring before its arguments, each on one line."""
    text = (inspect.getdoc(cls) or "").partition("\nArgs:")[0]
    return [" ".join(part.split()) for part in text.strip().split("\n\n")]


def arguments(cls: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its bases say under `Args`, as sentences."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        text = inspect.cleandoc(each.__doc__ or "").partition("\nArgs:\n")[2]
        body = textwrap.dedent(re.split(r"^\S", text, maxsplit=1, flags=re.MULTILINE)[0])
        for name, meaning in re.findall(r"^(\w+): (.*(?:\n\s+.*)*)", body, flags=re.MULTILINE):
            sentence = re.sub(r"\bNone\b", "null", " ".join(meaning.split()).rstrip("."))
            found[name] = f"{sentence[0].upper()}{sentence[1:]}."
    return found


def type_words(hint: Any) -> str:
    """A type in words, with its range."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    named = registry_of(hint)
    if named is not None:
        return part_words(named, holds_part(hint))
    if origin is Annotated:
        bounds = ", ".join(words for each in parts[1:] for words in bound_words(each))
        return f"{type_words(parts[0])} ({bounds})" if bounds else type_words(parts[0])
    if origin is Literal:
        return ", ".join("null" if part is None else f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(part) for part in sorted(parts, key=lambda part: part is type(None)))
    if origin in (tuple, list) or str(origin).endswith("Sequence'>"):
        one = type_words(parts[0])
        return f"list of {one.replace(WORDS[base], PLURALS[base], 1) if (base := bare(parts[0])) in PLURALS else one}"
    if any(isinstance(each, type) and issubclass(each, Mapping) for each in (hint, origin)):
        return "mapping"
    if hint in WORDS:
        return WORDS[hint]
    if isinstance(hint, type) and dc.is_dataclass(hint):
        return "section"
    return getattr(hint, "__name__", str(hint))


def part_words(named: Registry[Any], made: bool) -> str:
    """What may stand where something of a registry is named."""
    names = ", ".join(f"`{name}`" for name in named)
    return f"{names}, or `file.py:NAME`; or a mapping of `name` and settings" if made else f"{names}, or `file.py:NAME`"


def bare(hint: Any) -> Any:
    """A type without its range."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def bound_words(bound: Any) -> list[str]:
    """A range in words."""
    if not isinstance(bound, Ge | Gt | Le | Lt | Interval):
        return []
    limits = {key: getattr(bound, key, None) for key in BOUNDS}
    return [f"{BOUNDS[key]} {limit:.12g}" for key, limit in limits.items() if limit is not None and limit < ENDLESS]


def default_of(value: Any, hint: Any) -> str:
    """A default, or that of a field, as YAML would say it."""
    if isinstance(value, dc.Field):
        value = value.default if value.default_factory is dc.MISSING else value.default_factory()
    named = registry_of(hint)
    if named is not None and holds_part(hint) and value is not None:
        return f"`{value if isinstance(value, str) else named.name_of(value)}`"
    return "needed" if value is dc.MISSING else f"`{yaml_words(value)}`"


def yaml_words(value: Any) -> str:
    """A value as YAML would say it on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(yaml_words(each) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {yaml_words(each)}' for key, each in value.items())}}}"
    if dc.is_dataclass(value):
        return "{}"
    return str(value)
