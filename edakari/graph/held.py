"""Tensors and integers in plain attributes of modules, also in lists, dicts and configuration objects."""

from __future__ import annotations

import argparse
import dataclasses as dc
import re
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["OWN", "PLAIN", "containers", "held", "held_tensors", "item_of", "replaced_inside", "with_item"]

CONFIGURATION = re.compile("(config|cfg|args|arguments|params|options|hparams|settings|namespace)$", re.IGNORECASE)
"""Names of classes whose instances hold settings."""

DEPTH = 4
"""Depth to which nested containers are searched."""

OWN = frozenset({*vars(nn.Module()), "_version"})
"""Attributes in which a module stores its parameters, buffers, children and hooks."""

PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device))
"""Types of values that hold no tensor; most attributes have one of these, or are tuples of them."""

MANY = 4096
"""Number of entries from which a container counts as data."""


def held(value: Any, name: str, depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield the values in an attribute, each with its dotted name; containers themselves are not among them.

    Args:
        value: value of the attribute.
        name: name of the attribute; entries are named `name.position` and `name.key`.
        depth: depth to which nested containers are searched.
    """
    entries = _entries(value) if depth else None
    if entries is None:
        yield name, value
        return
    for key, item in entries:
        yield from held(item, f"{name}.{key}", depth - 1)


def containers(value: Any, depth: int = DEPTH) -> Iterator[Any]:
    """Yield an attribute's value, if it is a container, and the containers in it."""
    entries = _entries(value) if depth else None
    if entries is not None:
        yield value
        for _, item in entries:
            yield from containers(item, depth - 1)


def held_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in a module's attributes, without parameters, buffers, and dicts called caches."""
    for name, value in vars(module).items():
        if name in OWN or ("cache" in name and isinstance(value, dict)):
            continue
        cls = type(value)
        if cls in PLAIN or isinstance(value, int) or (cls in (tuple, list) and PLAIN.issuperset(map(type, value))):
            continue
        for full, item in held(value, name):
            if isinstance(item, torch.Tensor) and item.layout is torch.strided and not item.is_quantized:
                yield full, item


def item_of(value: Any, keys: Sequence[str]) -> Any:
    """Return an entry in an attribute's value; None if there is none.

    Args:
        value: value of the attribute.
        keys: keys of the entry, outermost first; no key selects the value itself.
    """
    for key in keys:
        value = dict(_entries(value) or ()).get(key)
    return value


def with_item(value: Any, keys: Sequence[str], item: Any) -> Any:
    """Replace one entry in an attribute's value; dicts, lists and objects change in place, tuples are rebuilt.

    Args:
        value: value of the attribute.
        keys: keys of the entry, outermost first; no key selects the value itself.
        item: new entry.
    """
    if not keys:
        return item
    key, *rest = keys
    entry = with_item(item_of(value, [key]), rest, item)
    if isinstance(value, list):
        value[int(key)] = entry
    elif isinstance(value, tuple):
        items = [*value[: int(key)], entry, *value[int(key) + 1 :]]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    elif isinstance(value, dict):
        value[next(each for each in value if str(each) == key)] = entry
    else:
        vars(value)[key] = entry
    return value


def replaced_inside(value: Any, new: Callable[[Any], Any], depth: int = DEPTH) -> Any:
    """Replace the values in an attribute; dicts, lists and objects change in place, tuples are rebuilt.

    Args:
        value: value of the attribute.
        new: function that returns what replaces a value, or the value itself.
        depth: depth to which nested containers are searched.
    """
    entries = _entries(value) if depth else None
    if entries is None:
        return new(value)
    for key, item in entries:
        made = replaced_inside(item, new, depth - 1)
        if made is not item:
            value = with_item(value, [key], made)
    return value


def _entries(value: Any) -> list[tuple[str, Any]] | None:
    """The entries of a container by key; None if the value is no container."""
    if isinstance(value, dict):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple | list):
        pairs = [(str(index), item) for index, item in enumerate(value)]
    elif _is_configuration(value):
        pairs = [(key, item) for key, item in vars(value).items() if not key.startswith("_")]
    else:
        return None
    return pairs if len(pairs) < MANY else None


def _is_configuration(value: Any) -> bool:
    if isinstance(value, type | nn.Module | torch.Tensor) or not hasattr(value, "__dict__"):
        return False
    return (
        isinstance(value, types.SimpleNamespace | argparse.Namespace)
        or dc.is_dataclass(value)
        or CONFIGURATION.search(type(value).__name__) is not None
    )
