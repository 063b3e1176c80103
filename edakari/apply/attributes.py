"""Mending what modules remember of their widths: a table from module class to function, and a careful fallback.

A module's forward code reads attributes such as `num_heads` or `groups`. After a cut they must say the new widths.
The table knows the usual modules. For any other module, an integer attribute that equals the dense extent of exactly
one thing that changed takes the new extent; `apply` then runs the network on meta tensors, so that a wrong guess is
found and reported, never used.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Layout, Product, extent
from edakari.core.space import Sizes

__all__ = ["ATTRIBUTES", "Widths", "attributes", "mended"]

Mend = Callable[[Any, "Widths"], Mapping[str, Any]]

ATTRIBUTES: dict[str, Mend] = {}
"""Class name (of the module or of a base class) to the function that gives its new attributes."""

FACTOR_NAMES = ("heads", "head_dim", "dim_head", "attn_dim", "nhead")


def attributes(*classes: type[nn.Module] | str) -> Callable[[Mend], Mend]:
    """Decorator that says how the attributes of module classes follow their parameters.

    Args:
        classes: module classes, or their names where importing them would be dear.
    """

    def add(mend: Mend) -> Mend:
        for cls in classes:
            ATTRIBUTES[cls if isinstance(cls, str) else cls.__name__] = mend
        return mend

    return add


@dc.dataclass(frozen=True)
class Widths:
    """Extents before and after a cut, as one module sees them.

    Args:
        graph: of the dense network.
        path: dotted path of the module.
        sizes: of the groups after the cut.
    """

    graph: Graph
    path: str
    sizes: Sizes

    def after(self, name: str, dim: int) -> int:
        """New length of a dimension of one of the module's parameters."""
        return int(extent(self.graph.layouts[self._full(name)][dim], self.sizes))

    def noted(self, attribute: str, otherwise: int) -> int:
        """New extent of what the trace noted for an attribute of the module."""
        layout = self.graph.attributes.get((self.path, attribute))
        return otherwise if layout is None else int(extent(layout, self.sizes))

    def changed(self, prefix: str = "") -> Iterator[tuple[int, int]]:
        """Dense and new extent of every dimension, and of every outer or inner part of one, of the parameters that
        lie directly in the module (or in its child `prefix`)."""
        start = self._full(prefix) + "." if prefix else self._full("")
        for name, dims in self.graph.layouts.items():
            if name.startswith(start) and "." not in name[len(start) :]:
                for dim in dims:
                    for part in _parts(dim):
                        yield int(extent(part, {})), int(extent(part, self.sizes))

    def _full(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


def _parts(dim: Layout) -> Iterator[Layout]:
    yield dim
    if isinstance(dim, Product):
        yield from dim.parts
        for cut in range(1, len(dim.parts)):
            yield Product(dim.parts[:cut])
            yield Product(dim.parts[cut:])


def mended(module: nn.Module, widths: Widths) -> Mapping[str, Any]:
    """The attributes of a module that change with its widths.

    Args:
        module: as in the dense network.
        widths: extents before and after.
    """
    for cls in type(module).__mro__:
        mend = ATTRIBUTES.get(cls.__name__)
        if mend is not None:
            return mend(module, widths)
    return _guessed(module, widths)


def _guessed(module: nn.Module, widths: Widths) -> dict[str, Any]:
    integers = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int) and not isinstance(value, bool) and value > 1 and not name.startswith("_")
    }
    found: dict[str, Any] = {}
    for prefix in ("", *(name for name, _ in module.named_children())) if integers else ():
        after: dict[int, set[int]] = {}
        for before, now in widths.changed(prefix):
            after.setdefault(before, set()).add(now)
        for name, value in integers.items():
            if name not in found and len(after.get(value, ())) == 1:
                found[name] = next(iter(after[value]))
    return {name: value for name, value in found.items() if value != integers[name]}


@attributes("_ConvNd")
def convolution(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Channels and groups follow the weight; a transposed weight has its input channels first."""
    groups = widths.noted("groups", module.groups)
    first, second = widths.after("weight", 0), widths.after("weight", 1)
    inward, outward = (first, second * groups) if module.transposed else (second * groups, first)
    return {"in_channels": inward, "out_channels": outward, "groups": groups}


@attributes(nn.Linear)
def linear(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Features follow the weight."""
    return {"in_features": widths.after("weight", 1), "out_features": widths.after("weight", 0)}


@attributes(nn.Embedding)
def embedding(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Rows and width follow the weight."""
    return {"num_embeddings": widths.after("weight", 0), "embedding_dim": widths.after("weight", 1)}


@attributes("_NormBase")
def batch_norm(module: Any, widths: Widths) -> Mapping[str, Any]:
    """The number of features follows any tensor there is."""
    for name in ("weight", "running_mean"):
        if getattr(module, name, None) is not None:
            return {"num_features": widths.after(name, 0)}
    return {}


@attributes(nn.LayerNorm, nn.RMSNorm)
def layer_norm(module: Any, widths: Widths) -> Mapping[str, Any]:
    """The normalised shape follows the scale."""
    if module.weight is None:
        return _noted_shape(module, widths)
    return {"normalized_shape": tuple(widths.after("weight", dim) for dim in range(module.weight.dim()))}


def _noted_shape(module: Any, widths: Widths) -> Mapping[str, Any]:
    shape = tuple(widths.noted(f"normalized_shape[{i}]", n) for i, n in enumerate(module.normalized_shape))
    return {"normalized_shape": shape}


@attributes(nn.GroupNorm)
def group_norm(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Channels follow the scale; whole groups of channels may have gone."""
    channels = widths.after("weight", 0) if module.affine else module.num_channels
    return {"num_channels": channels, "num_groups": widths.noted("num_groups", module.num_groups)}
