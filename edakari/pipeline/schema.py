"""The JSON schema of a recipe, made from its dataclasses; editors use it to complete and check recipes."""

from __future__ import annotations

import dataclasses as dc
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Interval, Le, Lt

from edakari.core.budget import Budget
from edakari.core.method import METHODS, Method
from edakari.core.registry import Registry
from edakari.core.settings import dataclass_of, holds_part, registry_of
from edakari.models import ModelSpec
from edakari.pipeline.settings import Recipe

__all__ = ["SCHEMA", "recipe_schema"]

SCHEMA = "edakari-recipe.schema.json"
"""Usual name of the schema's file."""
Schema = dict[str, Any]
TYPES: Mapping[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
FILE: Schema = {"type": "string", "pattern": r"\.py:\w+$", "description": "path/to/file.py:NAME"}


def recipe_schema() -> Schema:
    """Return the schema of a recipe file (JSON Schema, draft 2020-12), with all that is installed now."""
    parts: dict[str, Schema] = {}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edakari recipe"}
    found = {**head, **_object(Recipe, parts), "$defs": parts}
    pruning = ["method", "budget"]
    found["required"] = [key for key in found["required"] if key not in pruning]
    return {**found, "anyOf": [{"required": pruning}, {"required": ["train"]}]}


def _object(cls: type[Any], parts: dict[str, Schema], **constant: Any) -> Schema:
    """The schema of a settings class; schemas of registries that it names are added to `parts`."""
    hints, meanings = typing.get_type_hints(cls, include_extras=True), _meanings(cls)
    properties: dict[str, Schema] = {key: {"const": value} for key, value in constant.items()}
    required = list(constant)
    for field in dc.fields(cls):
        if not field.compare:
            continue
        found = _of(hints[field.name], parts)
        if field.name in meanings:
            found = {"description": meanings[field.name], **found}
        properties[field.name] = found
        if field.default is dc.MISSING and field.default_factory is dc.MISSING:
            required.append(field.name)
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found


def _of(hint: Any, parts: dict[str, Schema]) -> Schema:
    """The schema of a value with this annotation."""
    if hint is Method:
        return _part(METHODS, parts)
    if hint is Budget:
        return {
            "type": "string",
            "examples": ["macs<=50%", "latency<=12ms", "params<=8M, memory<=50%", "latency@pi<=30ms, latency@cpu<=60%"],
        }
    if hint is ModelSpec:
        return {"anyOf": [{"type": "string"}, _object(ModelSpec, parts)]}
    registry = registry_of(hint)
    if registry is not None:
        return _named(registry, hint, parts)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return {**_of(inner[0], parts), **_bounds(inner[1:])}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(each, parts) for each in inner]}
    if origin is tuple:
        many = inner[1:] == (Ellipsis,)
        held = [_of(each, parts) for each in inner if each is not Ellipsis]
        return {"type": "array", **({"items": held[0]} if many else {"prefixItems": held})}
    if dataclass_of(hint) is not None:
        return {"anyOf": [_object(dataclass_of(hint), parts), {"type": "null"}]}
    if hint in TYPES:
        return {"type": TYPES[hint]}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        named = {"additionalProperties": _of(inner[1], parts)} if dataclass_of(inner[1]) is not None else {}
        return {"type": "object", **named}
    return {}


def _named(registry: Registry[Any], hint: Any, parts: dict[str, Schema]) -> Schema:
    """What a registry offers, by its name alone or with settings; null where the annotation allows it."""
    if not holds_part(hint):
        return _name(registry)
    optional = type(None) in typing.get_args(typing.get_args(hint)[0])
    found = _part(registry, parts)
    return {"anyOf": [found, {"type": "null"}]} if optional else found


def _part(registry: Registry[Any], parts: dict[str, Schema]) -> Schema:
    """A reference to what a registry offers, because a part may hold another one of its own kind."""
    kind = registry.what.replace(" ", "_")
    if kind not in parts:
        parts[kind] = {}  # so that the way back ends here
        parts[kind] = _choices(registry, parts)
    return {"$ref": f"#/$defs/{kind}"}


def _choices(registry: Registry[Any], parts: dict[str, Schema]) -> Schema:
    """A name, or a mapping of a name and settings."""
    choices: list[Schema] = [_name(registry)]
    for name in registry.choices():
        full = registry.expanded({"name": name})
        thing = registry.named(full["name"])
        if not (isinstance(thing, type) and dc.is_dataclass(thing)):
            choices.append({"type": "object", "properties": {"name": {"const": name}}, "required": ["name"]})
            continue
        choices.append(_object(thing, parts, name=name))
        for key in set(full) - {"name"}:  # a short form; its own part needs no name then
            choices[-1]["properties"][key] = {"anyOf": [{"type": "string"}, {"type": "object"}]}
    choices.append({"type": "object", "properties": {"name": FILE}, "required": ["name"]})
    return {"anyOf": choices}


def _name(registry: Registry[Any]) -> Schema:
    names = dict.fromkeys((*registry.choices(), *registry.others()))
    return {"anyOf": [{"enum": list(names)}, *([FILE] if registry.files else [])]}


def _bounds(metadata: tuple[Any, ...]) -> Schema:
    return {
        word: limit
        for each in metadata
        if isinstance(each, Ge | Gt | Interval | Le | Lt)
        for key, word in BOUNDS.items()
        if (limit := getattr(each, key, None)) is not None
    }


def _meanings(cls: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and its bases say about the fields."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        text = inspect.cleandoc(each.__doc__ or "").partition("\nArgs:\n")[2]
        found |= {
            name: " ".join(meaning.split())
            for name, meaning in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.M)
        }
    return found
