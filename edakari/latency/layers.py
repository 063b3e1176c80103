"""The layers of a network to be timed: the distinct ones, and the widths of each call.

A `Layer` holds all that determines a latency except the widths: operation, variant, number of positions, and tail. The
tail are the position-wise operators that follow directly (batch norm, activation, addition of a shortcut). The tail is
timed with the layer, as the runtime decides how many kernels they become. A network has few distinct layers. Each call
(`Use`) names the layouts of the graph that are its widths.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edakari.core.graph import Graph, Operator
from edakari.core.layout import Concat, Fixed, Layout, Product, axes, extent
from edakari.graph.operators import named

__all__ = ["AXES", "Layer", "Use", "layers_of", "unknown_operators", "widths_in_group"]

AXES: Mapping[str, tuple[str, ...]] = {
    "convolution": ("in", "out"),
    "grouped_convolution": ("groups", "per_group"),
    "linear": ("in", "out"),
    "matmul": ("batch", "columns"),
    "attention": ("heads", "head_dims"),
    "norm": ("channels",),
    "pool": ("channels",),
    "softmax": ("elements",),
    "elementwise": ("elements",),
    "chain": ("operators",),
}
"""Names of the widths of each kind of layer. Where a kind would have three widths, two of them are added: the input and
output widths of a group, and the widths of a head's keys and values."""

INSTANT = (
    *("view", "unsqueeze", "squeeze", "expand", "strides", "slice", "selection", "reference", "conversion", "dropout"),
    *("constant", "like", "made"),
)
VIEWS = frozenset(name.removeprefix("aten.").removesuffix("_") for name in named(*INSTANT)) | {"t"}
"""Operators that take no time of their own, or almost none, in every runtime."""

TAILS: Mapping[str, str] = {
    **dict.fromkeys(("native_batch_norm", "batch_norm", "cudnn_batch_norm"), "batch_norm"),
    **{name: name for name in "relu gelu silu sigmoid tanh hardswish hardsigmoid leaky_relu elu mish add".split()},
    "hardtanh": "clip",
    "clamp": "clip",
    "relu6": "clip",
}
"""Operators that act position by position, and their names in a layer; in-place variants included."""

ELEMENTWISE: Mapping[str, str] = {
    **TAILS,
    **{name: name for name in "mul sub div permute clone roll mean sum index gather".split()},
    "transpose": "permute",
    "contiguous": "clone",
    "copy": "clone",
    "cat": "concat",
    "stack": "concat",
    "split": "split",
    "split_with_sizes": "split",
    "unbind": "split",
    "constant_pad_nd": "pad",
    "_adaptive_avg_pool2d": "mean",
    "adaptive_avg_pool2d": "mean",
}
"""Operators whose latency grows with the number of elements, and their names in a layer."""

POOLS = {"max_pool2d_with_indices": "max", "max_pool2d": "max", "avg_pool2d": "average"}
NORMS = {"native_layer_norm": "layer", "layer_norm": "layer", "rms_norm": "rms", "_fused_rms_norm": "rms"}
ANCHORS = ("convolution", "grouped_convolution", "linear")
"""Kinds of layers that can have a tail."""


@dc.dataclass(frozen=True, slots=True)
class Layer:
    """A layer without its widths: all else that determines its latency.

    Args:
        kind: a key of `AXES`.
        settings: pairs of name and plain value, sorted by name.
        tail: names of the position-wise operators that follow directly.
    """

    kind: str
    settings: tuple[tuple[str, Any], ...] = ()
    tail: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return dict(self.settings)[name]

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the widths."""
        return AXES[self.kind]

    def __str__(self) -> str:
        parts = [f"{name} {'×'.join(map(str, value)) if isinstance(value, tuple) else value}"
                 for name, value in self.settings if value not in (False, (1, 1), (0, 0))]  # fmt: skip
        return " ".join([self.kind.replace("_", " "), ", ".join(parts), *(f"+ {name}" for name in self.tail)]).strip()


@dc.dataclass(frozen=True, slots=True)
class Use:
    """One call of a layer.

    Args:
        layer: the layer.
        widths: one layout for each of the layer's axes.
        module: dotted path of the module that calls it.
    """

    layer: Layer
    widths: tuple[Layout, ...]
    module: str


def layers_of(graph: Graph) -> tuple[Use, ...]:
    """Return the layer calls of a network that are timed, in order.

    An operator joins the tail of the previous layer if it acts position by position on a tensor of the same layout.
    Every other operator that takes time is a layer.
    """
    uses: list[Use] = []
    last: tuple[Layout, ...] = ()
    for operator in graph.operators:
        name = _short(operator.name)
        if name in VIEWS or not operator.outputs or _numel(operator.outputs[0]) == 0 or _only_weights(operator):
            continue
        outputs = operator.outputs[0]
        if uses and name in TAILS and _joins(uses[-1], name, operator, last):
            layer = dc.replace(uses[-1].layer, tail=(*uses[-1].layer.tail, TAILS[name]))
            uses[-1] = dc.replace(uses[-1], layer=layer)
            continue
        uses.append(_BUILDERS.get(name, _elementwise)(operator))
        last = outputs
    return tuple(uses)


def widths_in_group(layer: Layer, both: int) -> tuple[int, int]:
    """Return the input and output width of one group of a grouped convolution.

    Args:
        layer: the convolution; the ratio of the two widths is that of the dense network.
        both: sum of the two widths.
    """
    inward, outward = layer["ratio"]
    first = min(max(1, round(both * inward / (inward + outward))), max(1, both - 1))
    return first, max(1, both - first)


def weights_of(layer: Layer, widths: Sequence[int]) -> int:
    """Return the number of weights that a call of a layer reads; biases and those of norms are not counted.

    Args:
        layer: the layer.
        widths: one for each of its axes.
    """
    match layer.kind:
        case "convolution":
            return math.prod((*widths, *layer["kernel"]))
        case "grouped_convolution":
            return math.prod((widths[0], *widths_in_group(layer, widths[1]), *layer["kernel"]))
        case "linear":
            return math.prod(widths)
    return 0


def unknown_operators(graph: Graph) -> tuple[str, ...]:
    """Names of the operators that are timed like an elementwise operator, because their cost is unknown."""
    known = {*VIEWS, *_BUILDERS, *ELEMENTWISE}
    names = (operator.name for operator in graph.operators if not _only_weights(operator))
    return tuple(dict.fromkeys(name for name in names if _short(name) not in known))


def _short(name: str) -> str:
    return name.removeprefix("aten.").removesuffix("_")


def _numel(dims: Sequence[Layout]) -> int:
    return math.prod(int(extent(dim, {})) for dim in dims)


def _only_weights(operator: Operator) -> bool:
    return bool(operator.weights) and len(operator.weights) >= len(operator.inputs) and not operator.macs


def _joins(use: Use, name: str, operator: Operator, last: tuple[Layout, ...]) -> bool:
    if use.layer.kind not in ANCHORS or operator.outputs[0] != last:
        return False
    # a shortcut has the shape of the tensor that it is added to
    return name != "add" or (len(operator.inputs) == 2 and all(dims == last for dims in operator.inputs))


def _layer(kind: str, **settings: Any) -> Layer:
    return Layer(kind, tuple(sorted(settings.items())))


def _shape(dims: Sequence[Layout]) -> tuple[int, ...]:
    return tuple(int(extent(dim, {})) for dim in dims)


def _convolution(operator: Operator) -> Use:
    x, weight = operator.inputs[:2]
    shape, given = _shape(weight), operator.settings
    settings = {
        "batch": _shape(x)[0],
        "space": _shape(x[2:]),
        "kernel": shape[2:],
        **{name: given[name] for name in ("stride", "padding", "dilation", "transposed", "bias")},
        "output_padding": given.get("output_padding", (0,) * (len(shape) - 2)),
    }
    groups = given["groups"]
    if groups == 1:
        outward = weight[1] if given["transposed"] else weight[0]
        inward = weight[0] if given["transposed"] else weight[1]
        return Use(_layer("convolution", **settings), (inward, outward), operator.module)
    out = operator.outputs[0]
    ratio = _shape(x)[1] // groups, _shape(out)[1] // groups
    whole, inward = _grouped(x[1], groups)
    outward = _grouped(out[1], groups)[1]
    layer = _layer("grouped_convolution", **settings, ratio=ratio)
    return Use(layer, (whole, Concat((inward, outward))), operator.module)


def _grouped(channels: Layout, groups: int) -> tuple[Layout, Layout]:
    """The groups of a channel dimension, and the channels of one group."""
    parts = channels.parts if isinstance(channels, Product) else (channels,)
    for count in range(1, len(parts) + 1):
        if math.prod(_shape(parts[:count])) == groups:
            return Product(parts[:count]), Product(parts[count:])
    return Fixed(groups), Fixed(_shape((channels,))[0] // groups)


def _linear(operator: Operator) -> Use:
    x, weight = operator.inputs[:2]
    outward: Layout = weight[0] if len(weight) == 2 else Product(())
    layer = _layer("linear", rows=_shape(x[:-1]), bias=bool(operator.settings.get("bias", False)))
    return Use(layer, (weight[-1], outward), operator.module)


def _matmul(operator: Operator) -> Use:
    """A product of two activations: batches of [rows, inner] times [inner, columns].

    At most two of the four may change: the batch (mostly heads), and either inner or columns.
    """
    left, right = [dims for dims in operator.inputs if len(dims) >= 2][-2:]
    batch = Product(tuple(left[:-2]))
    rows, inner = _shape(left[-2:])
    columns = _shape(right)[-1]
    if any(True for _ in axes(left[-1])):
        return Use(_layer("matmul", rows=rows, other=columns, moves="inner"), (batch, left[-1]), operator.module)
    return Use(_layer("matmul", rows=rows, other=inner, moves="columns"), (batch, right[-1]), operator.module)


def _attention(operator: Operator) -> Use:
    q, k, v = operator.inputs[:3]
    heads: Layout = Product(tuple(q[1:-2]))
    settings: dict[str, Any] = {"batch": _shape(q)[0], "rows": _shape(q)[-2], "keys": _shape(k)[-2]}
    for mask in operator.inputs[3:4]:  # it is added to the logits, which takes time of its own
        settings["mask"] = "keys" if _numel(mask[:-1]) == 1 else "pairs"
    layer = _layer("attention", **settings)
    return Use(layer, (heads, Concat((q[-1], v[-1]))), operator.module)


def _norm(operator: Operator) -> Use:
    x = operator.inputs[0]
    layer = _layer("norm", form=NORMS[_short(operator.name)], rows=_shape(x[:-1]))
    return Use(layer, (x[-1],), operator.module)


def _pool(operator: Operator) -> Use:
    x, given = operator.inputs[0], operator.settings
    settings = {name: given[name] for name in ("kernel", "stride", "padding")}
    form = POOLS[_short(operator.name)]
    return Use(_layer("pool", form=form, batch=_shape(x)[0], space=_shape(x[2:]), **settings), (x[1],), operator.module)


def _softmax(operator: Operator) -> Use:
    dims = operator.outputs[0]
    return Use(_layer("softmax", last=_shape(dims)[-1]), (Product(dims),), operator.module)


def _elementwise(operator: Operator) -> Use:
    tensors = [operator.outputs[0], *operator.inputs]
    largest = max(tensors, key=_numel)
    what = ELEMENTWISE.get(_short(operator.name), "other")
    return Use(_layer("elementwise", form=what), (Product(largest),), operator.module)


_BUILDERS: Mapping[str, Callable[[Operator], Use]] = {
    **dict.fromkeys(("convolution", "_convolution"), _convolution),
    **dict.fromkeys(("linear", "addmm", "mm"), _linear),
    **dict.fromkeys(("bmm", "baddbmm", "matmul"), _matmul),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(("_softmax", "softmax", "_log_softmax", "_safe_softmax"), _softmax),
}
