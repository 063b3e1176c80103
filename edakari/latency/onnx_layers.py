"""A layer as an ONNX model of a few nodes, built in a millisecond without torch's exporter.

Convolutions and pools stand between a producer and a consumer, both pointwise convolutions of few channels. ONNX
Runtime and OpenVINO run them in a blocked layout. Without the two, the layout conversions at the edges of the model
would take most of its time, though a whole network rarely needs them. `core.far_side.sessions.timed_part` selects the
nodes in between.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edakari.core.far_side.sessions import CONSUMER
from edakari.core.optional import needs
from edakari.latency.layers import Layer, widths_in_group

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxLayer", "onnx_layer"]

Array = npt.NDArray[np.float32]

EDGE = 16
"""Outer channels of producer and consumer: one block."""
STEM = 4
"""A layer with at most so many input channels reads the network's input, which no convolution produced."""
OPSET, IR = 20, 10
FLOAT = 1
"""Code of float32 in ONNX."""

UNARY = {
    "relu": "Relu", "gelu": "Gelu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid", "leaky_relu": "LeakyRelu", "elu": "Elu", "mish": "Mish", "other": "Abs",
}  # fmt: skip
BINARY = {"add": "Add", "mul": "Mul", "sub": "Sub", "div": "Div"}


@dc.dataclass(frozen=True)
class OnnxLayer:
    """A layer as an ONNX model.

    Args:
        model: serialised model; empty if the layer takes no time in ONNX.
        feeds: inputs of the model by name.
    """

    model: bytes
    feeds: Mapping[str, Array]


def onnx_layer(layer: Layer, widths: Sequence[int]) -> OnnxLayer:
    """Build the model of a layer at given widths; weights and inputs are random, from a fixed seed.

    Args:
        layer: layer to build.
        widths: one width for each of the layer's axes.
    """
    build = _Builder()
    _KINDS[layer.kind](build, layer, *widths)
    return build.finish()


class _Builder:
    """Nodes, weights and inputs of an unfinished model."""

    def __init__(self) -> None:
        with needs("onnx", "timing layers as ONNX models"):
            from onnx import helper, numpy_helper

        self.make, self.arrays = helper, numpy_helper
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.feeds: dict[str, Array] = {}
        self.last = ""

    def input(self, *shape: int) -> str:
        name = f"input{len(self.feeds)}"
        self.feeds[name] = self.rng.standard_normal(shape, dtype=np.float32)
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05))

    def constant(self, value: npt.ArrayLike) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(self.arrays.from_array(np.asarray(value), name))
        return name

    def node(self, operator: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        name = name or f"timed{len(self.nodes)}"
        names = [name] + [f"{name}_{index}" for index in range(1, outputs)]
        self.nodes.append(self.make.make_node(operator, inputs, names, name=name, **attributes))
        self.last = name
        return name

    def finish(self) -> OnnxLayer:
        if not self.nodes:
            return OnnxLayer(b"", {})
        make = self.make
        used = {name for node in self.nodes for name in node.input}
        ends = [name for node in self.nodes for name in node.output if name not in used]
        inputs = [make.make_tensor_value_info(n, FLOAT, v.shape) for n, v in self.feeds.items()]
        outputs = [make.make_tensor_value_info(name, FLOAT, None) for name in ends]
        graph = make.make_graph(self.nodes, "layer", inputs, outputs, self.weights)
        model = make.make_model(graph, opset_imports=[make.make_opsetid("", OPSET)], ir_version=IR)
        return OnnxLayer(model.SerializeToString(), self.feeds)

    def produced(self, channels: int, batch: int, space: Sequence[int], name: str = "producer") -> str:
        ones = [1] * len(space)
        source = self.input(batch, EDGE, *space)
        return self.node("Conv", source, self.weight(channels, EDGE, *ones), self.weight(channels), name=name)

    def consumed(self, channels: int, space: int) -> None:
        # the stride must be 1: OpenVINO would move a stride into the layer and skip the other positions
        self.node("Conv", self.last, self.weight(EDGE, channels, *[1] * space), name=CONSUMER)

    def tail(self, layer: Layer, shape: Sequence[int], shortcut: Callable[[], str]) -> None:
        """Add the position-wise operators that follow a layer with this output shape."""
        folded = layer.kind != "linear"
        for index, name in enumerate(layer.tail):
            if name == "batch_norm" and index == 0 and folded:
                continue  # exporters fold it into the weights
            self.pointwise(name, self.last, shape, shortcut)

    def pointwise(self, name: str, x: str, shape: Sequence[int], other: Callable[[], str]) -> None:
        if name == "silu":
            self.node("Mul", x, self.node("Sigmoid", x))
        elif name == "clip":
            self.node("Clip", x, self.constant(np.float32(0.0)), self.constant(np.float32(6.0)))
        elif name == "batch_norm":
            statistics = [self.constant(np.ones(shape[1], np.float32)) for _ in range(4)]
            self.node("BatchNormalization", x, *statistics)
        elif name in BINARY:
            self.node(BINARY[name], x, other())
        else:
            self.node(UNARY[name], x)


def _convolution(build: _Builder, layer: Layer, inward: int, outward: int, groups: int = 1) -> None:
    batch, space = layer["batch"], layer["space"]
    x = build.input(batch, inward, *space) if inward <= STEM else build.produced(inward, batch, space)
    after = output_space(layer)
    # this runs before the layer, so that no other node runs in between
    shortcut = build.produced(outward, batch, after, "shortcut") if "add" in layer.tail else ""
    transposed = layer["transposed"]
    first, second = (inward, outward // groups) if transposed else (outward, inward // groups)
    weights = [build.weight(first, second, *layer["kernel"])]
    if layer["bias"] or "batch_norm" in layer.tail:
        weights.append(build.weight(outward))
    attributes: dict[str, Any] = {
        "strides": list(layer["stride"]),
        "pads": list(layer["padding"]) * 2,
        "dilations": list(layer["dilation"]),
        "group": groups,
    }
    if transposed:
        attributes["output_padding"] = list(layer["output_padding"])
    build.node("ConvTranspose" if transposed else "Conv", x, *weights, **attributes)
    build.tail(layer, (batch, outward), lambda: shortcut)
    build.consumed(outward, len(after))


def _grouped(build: _Builder, layer: Layer, groups: int, per_group: int) -> None:
    inward, outward = widths_in_group(layer, per_group)
    _convolution(build, layer, groups * inward, groups * outward, groups=groups)


def output_space(layer: Layer) -> tuple[int, ...]:
    """Output extent of a convolution or pool along each spatial dimension."""
    found = []
    for index, size in enumerate(layer["space"]):
        kernel, stride, padding = (layer[name][index] for name in ("kernel", "stride", "padding"))
        dilation = layer["dilation"][index] if layer.kind != "pool" else 1
        reach = dilation * (kernel - 1)
        if layer.kind != "pool" and layer["transposed"]:
            found.append((size - 1) * stride - 2 * padding + reach + layer["output_padding"][index] + 1)
        else:
            found.append((size + 2 * padding - reach - 1) // stride + 1)
    return tuple(found)


def _pool(build: _Builder, layer: Layer, channels: int) -> None:
    x = build.produced(channels, layer["batch"], layer["space"])
    build.node(
        "MaxPool" if layer["form"] == "max" else "AveragePool",
        x,
        kernel_shape=list(layer["kernel"]),
        strides=list(layer["stride"]),
        pads=list(layer["padding"]) * 2,
    )
    build.consumed(channels, len(layer["space"]))


def _linear(build: _Builder, layer: Layer, inward: int, outward: int) -> None:
    rows = layer["rows"]
    x = build.input(*rows, inward)
    if len(rows) == 1:
        bias = [build.weight(outward)] if layer["bias"] else []
        build.node("Gemm", x, build.weight(outward, inward), *bias, transB=1)
    else:
        build.node("MatMul", x, build.weight(inward, outward))
        if layer["bias"]:
            build.node("Add", build.last, build.weight(outward))
    build.tail(layer, (*rows, outward), lambda: build.input(*rows, outward))


def _matmul(build: _Builder, layer: Layer, batch: int, moving: int) -> None:
    rows, other = layer["rows"], layer["other"]
    inner, columns = (moving, other) if layer["moves"] == "inner" else (other, moving)
    build.node("MatMul", build.input(batch, rows, inner), build.input(batch, inner, columns))


def _attention(build: _Builder, layer: Layer, heads: int, dims: int) -> None:
    batch, rows, keys = layer["batch"], layer["rows"], layer["keys"]
    inner, columns = dims - dims // 2, max(1, dims // 2)
    scale = build.constant(np.float32(inner**-0.25))
    q = build.node("Mul", build.input(batch, heads, rows, inner), scale)
    k = build.node("Transpose", build.input(batch, heads, keys, inner), perm=[0, 1, 3, 2])
    scores = build.node("MatMul", q, build.node("Mul", k, scale))
    mask = dict(layer.settings).get("mask")
    if mask:
        ahead = (1, 1) if mask == "keys" else (heads, rows)
        scores = build.node("Add", scores, build.input(1, *ahead, keys))
    build.node("MatMul", build.node("Softmax", scores, axis=-1), build.input(batch, heads, keys, columns))


def _norm(build: _Builder, layer: Layer, channels: int) -> None:
    x = build.input(*layer["rows"], channels)
    build.node("LayerNormalization", x, build.weight(channels), build.weight(channels), axis=-1)


def _softmax(build: _Builder, layer: Layer, elements: int) -> None:
    build.node("Softmax", build.input(max(1, elements // layer["last"]), layer["last"]), axis=-1)


def _elementwise(build: _Builder, layer: Layer, elements: int) -> None:
    form, columns = layer["form"], 64
    shape = (1, max(1, elements // columns), columns)
    if form == "clone":
        return
    x = build.input(*shape)
    if form in _MOVES:
        _MOVES[form](build, x, shape)
    else:
        build.pointwise(form, x, shape, lambda: build.input(*shape))


def _permute(build: _Builder, x: str, shape: tuple[int, ...]) -> None:
    build.node("Transpose", x, perm=[0, 2, 1])


def _concat(build: _Builder, x: str, shape: tuple[int, ...]) -> None:
    build.node("Concat", x, build.input(1, 1, shape[-1]), axis=1)


def _split(build: _Builder, x: str, shape: tuple[int, ...]) -> None:
    parts = min(3, shape[1])
    build.node("Split", x, axis=1, outputs=parts, num_outputs=parts)


def _roll(build: _Builder, x: str, shape: tuple[int, ...]) -> None:
    def rows(first: int, last: int) -> str:
        bounds = [build.constant(np.array([value])) for value in (first, last, 1)]
        return build.node("Slice", x, *bounds)

    middle = max(1, shape[1] // 2)
    build.node("Concat", rows(middle, shape[1]), rows(0, middle), axis=1)


def _gather(build: _Builder, x: str, shape: tuple[int, ...]) -> None:
    build.node("Gather", x, build.constant(build.rng.permutation(shape[1])), axis=1)


def _pad(build: _Builder, x: str, shape: tuple[int, ...]) -> None:
    build.node("Pad", x, build.constant(np.array([0, 0, 0, 0, 1, 0])))


def _reduce(operator: str) -> Callable[[_Builder, str, tuple[int, ...]], None]:
    def build_reduce(build: _Builder, x: str, shape: tuple[int, ...]) -> None:
        build.node(operator, x, build.constant(np.array([-1])), keepdims=0)

    return build_reduce


def _chain(build: _Builder, layer: Layer, operators: int) -> None:
    x = build.input(1, EDGE)
    for index in range(operators):
        x = build.node(("Sin", "Cos")[index % 2], x)


_MOVES: Mapping[str, Callable[[_Builder, str, tuple[int, ...]], None]] = {
    "permute": _permute,
    "concat": _concat,
    "split": _split,
    "roll": _roll,
    "index": _gather,
    "gather": _gather,
    "pad": _pad,
    "mean": _reduce("ReduceMean"),
    "sum": _reduce("ReduceSum"),
}
_KINDS: Mapping[str, Callable[..., None]] = {
    "convolution": _convolution,
    "grouped_convolution": _grouped,
    "linear": _linear,
    "matmul": _matmul,
    "attention": _attention,
    "norm": _norm,
    "pool": _pool,
    "softmax": _softmax,
    "elementwise": _elementwise,
    "chain": _chain,
}
