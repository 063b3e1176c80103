"""Updates module attributes that hold widths: a table from module class to function, and a cautious fallback.

A module's forward code reads attributes such as `num_heads` or `groups`. After a cut, they must hold the new widths.
The table covers torch's own modules. For any other module, an integer follows the dimension that it counted in the
trace. An integer that was not used in the trace follows if it has the name of a width and equals the dense extent of
just one changed dimension. `apply` then runs the network on meta tensors, so that a wrong guess is never used.
"""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Concat, Fixed, Layout, Product, axes, extent
from edakari.core.space import Kind, Sizes
from edakari.graph.held import item_of, with_item

__all__ = ["ATTRIBUTES", "Widths", "attributes", "mended", "mended_inside", "with_ints"]

ROLES: tuple[tuple[tuple[str, ...], frozenset[Kind]], ...] = (
    (("attn_dim", "inner_dim", "dim_inner", "all_head_size", "attention_dim"), frozenset({"head", "head_dim"})),
    (("head_dim", "dim_head", "head_size", "d_head", "key_dim"), frozenset({"head_dim"})),
    (("heads", "nhead", "n_head"), frozenset({"head"})),
)
"""What attributes with these names count: the kinds of the groups in their extent."""

WIDTHS = re.compile("dim|channel|chs|feature|width|hidden|embed|planes|head")
"""Names of attributes that count positions which may be pruned; the size of a window or a depth never follows."""

Mend = Callable[[Any, "Widths"], Mapping[str, Any]]

ATTRIBUTES: dict[type[nn.Module] | str, Mend] = {}
"""Maps a module's class or base class, or its name, to the function that returns its new attributes."""


def attributes(*classes: type[nn.Module] | str) -> Callable[[Mend], Mend]:
    """Decorator for the function that updates the attributes of module classes.

    Args:
        classes: module classes, or their names if importing them would be slow.
    """

    def add(mend: Mend) -> Mend:
        for cls in classes:
            ATTRIBUTES[cls] = mend
        return mend

    return add


@dc.dataclass(frozen=True)
class Widths:
    """Sizes of one module's dimensions before and after a cut.

    Args:
        graph: graph of the dense network.
        path: dotted path of the module.
        sizes: sizes of the groups after the cut.
    """

    graph: Graph
    path: str
    sizes: Sizes

    def noted(self, attribute: str, otherwise: int) -> int:
        """Return the new extent of what the trace noted for an attribute of the module.

        If it does not change, neither does the attribute: the attribute may count only a part of it, such as the groups
        of a convolution that runs once for each image.
        """
        layout = self.graph.attributes.get((self.path, attribute))
        if layout is None or extent(layout, self.sizes) == extent(layout, {}):
            return otherwise
        return int(extent(layout, self.sizes))

    def parts(self, child: str = "") -> Iterator[Layout]:
        """Yield the layout of every dimension, and of its outer and inner parts, of a module's own parameters.

        Args:
            child: name of the child whose parameters are read instead.
        """
        for dims in self.graph.layouts_of(".".join(filter(None, (self.path, child)))):
            for dim in dims:
                yield from _parts(dim)

    def kinds(self, layout: Layout) -> frozenset[Kind]:
        """Kinds of the groups in a layout."""
        return frozenset(self.graph[axis.group].kind for axis in axes(layout))


def _parts(dim: Layout) -> Iterator[Layout]:
    yield dim
    if isinstance(dim, Product):
        for first in range(len(dim.parts)):
            for last in range(first + 1, len(dim.parts) + 1):
                if last - first < len(dim.parts):
                    yield Product(dim.parts[first:last])
    if isinstance(dim, Product | Concat):
        for part in dim.parts:
            if isinstance(part, Product | Concat):
                yield from _parts(part)
            elif isinstance(dim, Concat):
                yield part


def mended(module: nn.Module, widths: Widths) -> Mapping[str, Any]:
    """Return the attributes of a module that change with its widths.

    Args:
        module: module of the dense network.
        widths: extents before and after the cut.
    """
    for cls in type(module).__mro__:
        mend = ATTRIBUTES.get(cls) or ATTRIBUTES.get(cls.__name__)
        if mend is not None:
            return mend(module, widths)
    seen = _seen(widths)
    return {**_guessed(module, widths, {name.partition(".")[0] for name in seen}), **_observed(module, widths, seen)}


def mended_inside(module: nn.Module, widths: Widths) -> Iterator[tuple[str, int]]:
    """Yield numbers in a module's attributes, such as "config.width", that counted a dimension in the trace.

    Each comes with its new value after the cut.
    """
    if not any(cls in ATTRIBUTES or cls.__name__ in ATTRIBUTES for cls in type(module).__mro__):
        for full in sorted(_seen(widths)):
            name, *keys = full.split(".")
            dense = item_of(getattr(module, name, None), keys)
            if keys and isinstance(dense, int):
                yield full, widths.noted(full, dense)


def with_ints(module: nn.Module, ints: Iterable[tuple[str, int]]) -> None:
    """Put integers into a module's attributes, such as "config.width".

    Dicts, lists and objects change in place, since other modules may hold them too.
    """
    for full, count in ints:
        name, *keys = full.split(".")
        setattr(module, name, with_item(getattr(module, name), keys, count))


def _seen(widths: Widths) -> set[str]:
    return set(widths.graph.attributes_of(widths.path))


def _observed(module: nn.Module, widths: Widths, seen: Iterable[str]) -> dict[str, int]:
    """Names of the attributes that counted a dimension in the trace."""
    values = {name: getattr(module, name, None) for name in seen if "." not in name}
    return {name: widths.noted(name, value) for name, value in values.items() if isinstance(value, int)}


def _guessed(module: nn.Module, widths: Widths, seen: Collection[str]) -> dict[str, Any]:
    """Attributes unused in the trace, with the name of a width and the value of just one changed dimension."""
    wanted = {
        name: value
        for name, value in vars(module).items()
        if name not in seen and _counts(value) and WIDTHS.search(name) and not name.startswith("_")
    }
    found: dict[str, Any] = {}
    for child in ("", *(name for name, _ in module.named_children())) if wanted else ():
        after: dict[tuple[int, frozenset[Kind]], set[int]] = {}
        for part in widths.parts(child):
            key = (int(extent(part, {})), widths.kinds(part))
            after.setdefault(key, set()).add(int(extent(part, widths.sizes)))
        for name, value in wanted.items():
            if name not in found:
                found.update(_match(name, value, after))
    return {**found, **_scales(module, widths)}


def _role_of(attribute: str) -> frozenset[Kind] | None:
    return next((kinds for names, kinds in ROLES if any(part in attribute for part in names)), None)


def _counts(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(item, int) for item in value) and any(item > 1 for item in value)
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def _scales(module: nn.Module, widths: Widths) -> dict[str, float]:
    """Attention scales computed from the head dimension, for its new size."""
    children = ("", *(name for name, _ in module.named_children()))
    scales = {name: value for name, value in vars(module).items() if isinstance(value, float)}
    after = {
        float(int(extent(part, {})) ** -0.5): float(int(extent(part, widths.sizes)) ** -0.5)
        for child in (children if scales else ())
        for part in widths.parts(child)
        if widths.kinds(part) == {"head_dim"}
    }
    return {name: after[value] for name, value in scales.items() if value in after}


def _match(name: str, value: Any, after: Mapping[tuple[int, frozenset[Kind]], set[int]]) -> dict[str, Any]:
    role = _role_of(name)

    def now(count: int) -> set[int]:
        if role is not None:
            return after.get((count, role), set())
        return {
            size
            for (before, kinds), sizes in after.items()
            if before == count and "head" not in kinds
            for size in sizes
        }

    if isinstance(value, tuple):
        options = [now(item) if item > 1 else {item} for item in value]
        return {name: tuple(next(iter(one)) for one in options)} if all(len(one) == 1 for one in options) else {}
    options = [now(value)]
    return {name: next(iter(options[0]))} if len(options[0]) == 1 else {}


@attributes(nn.modules.conv._ConvNd)
def convolution(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Channels and groups follow the weight; a transposed weight has its input channels first."""
    groups = widths.noted("groups", module.groups)
    first, second = module.weight.shape[:2]
    inward, outward = (first, second * groups) if module.transposed else (second * groups, first)
    return {"in_channels": inward, "out_channels": outward, "groups": groups}


@attributes(nn.Linear)
def linear(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Features follow the weight."""
    return {"in_features": module.weight.shape[1], "out_features": module.weight.shape[0]}


@attributes(nn.Embedding)
def embedding(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Rows and width follow the weight."""
    return {"num_embeddings": module.weight.shape[0], "embedding_dim": module.weight.shape[1]}


@attributes(nn.modules.batchnorm._NormBase)
def batch_norm(module: Any, widths: Widths) -> Mapping[str, Any]:
    """The number of features follows any existing tensor, or what the trace noted."""
    for tensor in (module.weight, module.running_mean):
        if tensor is not None:
            return {"num_features": tensor.shape[0]}
    # the channels of an instance norm are (image, channel) where they are normalised
    seen = widths.graph.attributes.get((widths.path, "num_features"), Fixed(module.num_features))
    return {"num_features": module.num_features * extent(seen, widths.sizes) // extent(seen, {})}


@attributes(nn.LayerNorm, nn.RMSNorm)
def layer_norm(module: Any, widths: Widths) -> Mapping[str, Any]:
    """The normalised shape follows the scale; without a scale, what the trace noted."""
    if module.weight is not None:
        return {"normalized_shape": tuple(module.weight.shape)}
    dense = module.normalized_shape
    return {"normalized_shape": tuple(widths.noted(f"normalized_shape.{i}", n) for i, n in enumerate(dense))}


@attributes(nn.GroupNorm)
def group_norm(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Channels follow the scale, or what the trace noted; whole groups of channels may be removed."""
    channels = module.weight.shape[0] if module.affine else widths.noted("num_channels", module.num_channels)
    return {"num_channels": channels, "num_groups": widths.noted("num_groups", module.num_groups)}


@attributes(nn.RNNBase)
def recurrent(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Widths follow the first layer's weights; the module keeps a list of them in addition to its parameters."""
    projected = module.proj_size > 0
    return {
        "input_size": module.weight_ih_l0.shape[1],
        "hidden_size": module.weight_hr_l0.shape[1] if projected else module.weight_hh_l0.shape[1],
        "proj_size": module.weight_hr_l0.shape[0] if projected else 0,
        "_flat_weights": [getattr(module, name) for name in module._flat_weights_names],
    }


@attributes(nn.RNNCellBase)
def recurrent_cell(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Widths follow the weights."""
    return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}


@attributes(nn.Transformer)
def transformer(module: Any, widths: Widths) -> Mapping[str, Any]:
    """The width that the module compares its inputs with follows its layers."""
    norm = getattr(module.encoder, "norm", None)
    return {"d_model": norm.weight.shape[0]} if norm is not None and norm.weight is not None else {}


@attributes(nn.Bilinear)
def bilinear(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Features follow the weight."""
    out, first, second = module.weight.shape
    return {"in1_features": first, "in2_features": second, "out_features": out}


@attributes("DeformConv2d")
def deformable(module: Any, widths: Widths) -> Mapping[str, Any]:
    """Channels and groups of torchvision's deformable convolution follow the weight."""
    groups = widths.noted("groups", module.groups)
    out, per_group = module.weight.shape[:2]
    return {"in_channels": per_group * groups, "out_channels": out, "groups": groups}
