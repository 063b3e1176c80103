"""Layouts: what the positions along one dimension of a tensor belong to, as immutable data.

While a network is traced, `graph/algebra.py` describes dimensions by expressions that can still be refined.

A dimension is described by a tree. `Fixed(n)` is n positions that nothing may remove. `Axis(group)` is one position
per channel of a group. `Product` nests its parts in row-major order (a head axis times a head dimension), `Concat`
lays its parts side by side (the inputs of a concatenation). A tree answers two questions: how many positions are left
at given sizes, and which ones, given the channels that are kept.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.errors import PlanError

__all__ = ["Axis", "Concat", "Fixed", "Layout", "Product", "axes", "extent", "from_json", "kept", "to_json"]

Mask = npt.NDArray[np.bool_]


@dc.dataclass(frozen=True, slots=True)
class Fixed:
    """A run of `size` positions that stays whole."""

    size: int


@dc.dataclass(frozen=True, slots=True)
class Axis:
    """One position for each channel of a group; `size` is the group's size in the dense network."""

    group: str
    size: int


@dc.dataclass(frozen=True, slots=True)
class Product:
    """Parts nested in row-major order: the last part varies fastest."""

    parts: tuple[Layout, ...]


@dc.dataclass(frozen=True, slots=True)
class Concat:
    """Parts laid side by side."""

    parts: tuple[Layout, ...]


Layout = Fixed | Axis | Product | Concat


def extent(layout: Layout, sizes: Mapping[str, Any]) -> Any:
    """Number of positions at the given sizes.

    Args:
        layout: description of one dimension.
        sizes: size of each group; a group that is not named is whole. Values may be NumPy arrays, which broadcast.

    Returns:
        An int, or an array where some size was one.
    """
    # a chain of tests of the type takes a third of the time of `match`
    if isinstance(layout, Fixed):
        return layout.size
    if isinstance(layout, Axis):
        return sizes.get(layout.group, layout.size)
    extents = [extent(part, sizes) for part in layout.parts]
    return math.prod(extents) if isinstance(layout, Product) else sum(extents)


def kept(layout: Layout, masks: Mapping[str, Mask]) -> Mask:
    """Which positions are kept.

    Args:
        layout: description of one dimension.
        masks: for a group, which of its channels are kept, bool [size]; a group that is not named is whole.

    Returns:
        bool [positions], in the order of the dense dimension.
    """
    match layout:
        case Fixed(size):
            return np.ones(size, dtype=np.bool_)
        case Axis(group, size):
            return masks[group] if group in masks else np.ones(size, dtype=np.bool_)
        case Product(parts):
            mask = np.ones(1, dtype=np.bool_)
            for part in parts:
                mask = np.logical_and.outer(mask, kept(part, masks)).ravel()
            return mask
        case Concat(parts):
            return np.concatenate([kept(part, masks) for part in parts])


def axes(layout: Layout) -> Iterator[Axis]:
    """The axes that a dimension is made of, in order, repeats included."""
    match layout:
        case Fixed():
            return
        case Axis():
            yield layout
        case Product(parts) | Concat(parts):
            for part in parts:
                yield from axes(part)


def to_json(layout: Layout) -> Any:
    """A layout as JSON: an int, a group's `[name, size]`, `{"product": […]}` or `{"concat": […]}`."""
    match layout:
        case Fixed(size):
            return size
        case Axis(group, size):
            return [group, size]
        case Product(parts):
            return {"product": [to_json(part) for part in parts]}
        case Concat(parts):
            return {"concat": [to_json(part) for part in parts]}


def from_json(value: Any) -> Layout:
    """The inverse of `to_json`.

    Raises:
        PlanError: the value is not a layout.
    """
    match value:
        case bool():
            pass
        case int():
            return Fixed(value)
        case [str(group), int(size)]:
            return Axis(group, size)
        case {"product": list(parts)}:
            return Product(tuple(from_json(part) for part in parts))
        case {"concat": list(parts)}:
            return Concat(tuple(from_json(part) for part in parts))
    raise PlanError(f"not the layout of a dimension: {value!r}")
