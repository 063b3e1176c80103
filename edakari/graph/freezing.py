"""Conversion between the two descriptions of a dimension: `DimExpr`, which changes while tracing, and `Layout`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edakari.core.layout import Axis, Concat, Fixed, Layout, Product
from edakari.graph.algebra import DimAxis, DimConcat, DimExpr, DimProduct, leaves, resolve, size

__all__ = ["Known", "freeze", "pinned", "thaw"]


Known = dict[DimAxis | int, Layout]
"""Layouts of the axes that are groups, and of runs of fixed positions."""


def freeze(dim: DimExpr, known: Known) -> Layout:
    """Convert a dimension to a layout.

    Args:
        dim: dimension of a tensor, while tracing.
        known: layouts of the axes that are groups; any other axis is fixed. Runs of fixed positions are added to it, so
            that equal runs are one object.

    Returns:
        The layout; a dimension without groups is one fixed run.
    """
    found = known.get(dim) if isinstance(dim, int) else None
    if found is not None:
        return found
    dim = resolve(dim)
    if isinstance(dim, int):
        return known.setdefault(dim, Fixed(dim))
    if isinstance(dim, DimAxis):
        return known.get(dim) or freeze(dim.size, known)
    parts = tuple(freeze(part, known) for part in dim)
    if all(isinstance(part, Fixed) for part in parts):
        return freeze(size(dim), known)
    return Product(parts) if isinstance(dim, DimProduct) else Concat(parts)


def thaw(layout: Layout, axes: Mapping[str, DimAxis]) -> DimExpr:
    """Convert a layout to a dimension that can be refined again; the inverse of `freeze`.

    Args:
        layout: layout of a dimension.
        axes: axis of each group, by name.
    """
    match layout:
        case Fixed(size):
            return size
        case Axis(group):
            return axes[group]
        case Product(parts):
            return DimProduct(thaw(part, axes) for part in parts)
        case Concat(parts):
            return DimConcat(thaw(part, axes) for part in parts)


def pinned(dim: DimExpr) -> Iterator[tuple[int, str]]:
    """Yield the runs of pinned positions in a dimension, each with its length and the reason."""
    if isinstance(dim, DimAxis):
        if dim.pinned:
            yield dim.size, dim.pinned
        elif dim.value is not None:
            yield from pinned(dim.value)
    elif isinstance(dim, DimConcat) or not any(True for _ in leaves(dim)):
        # in a product with a free part, every position can be removed, so a pinned part does not matter
        for part in () if isinstance(dim, int) else dim:
            yield from pinned(part)
