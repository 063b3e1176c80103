"""A layer as a torch module, as eager mode runs it: without folding or fusion."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.latency.layers import Layer, widths_in_group

__all__ = ["torch_layer"]

Inputs = tuple[torch.Tensor, ...]

UNARY: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "leaky_relu": F.leaky_relu, "elu": F.elu, "mish": F.mish,
    "clip": F.relu6, "other": torch.abs,
}  # fmt: skip
BINARY: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add, "mul": torch.mul, "sub": torch.sub, "div": torch.div,
}  # fmt: skip
ELEMENTWISE: Mapping[str, Callable[[torch.Tensor], Any]] = {
    "permute": lambda x: x.transpose(1, 2),
    "clone": lambda x: x.transpose(1, 2).clone(memory_format=torch.contiguous_format),
    "concat": lambda x: torch.cat((x, x[:, :1]), 1),
    "split": lambda x: x.unbind(0),
    "roll": lambda x: torch.roll(x, x.shape[1] // 2, 1),
    "index": lambda x: x[:, torch.arange(x.shape[1] - 1, -1, -1, device=x.device)],
    "gather": lambda x: x[:, torch.arange(x.shape[1] - 1, -1, -1, device=x.device)],
    "pad": lambda x: F.pad(x, (0, 0, 0, 1)),
    "mean": lambda x: x.mean(-1),
    "sum": lambda x: x.sum(-1),
}
CONVOLUTIONS: Mapping[tuple[int, bool], type[nn.Module]] = {
    (1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d,
}  # fmt: skip


def torch_layer(layer: Layer, widths: Sequence[int]) -> tuple[nn.Module, Inputs]:
    """Build the module of a layer at given widths, in evaluation mode, and the inputs of one call.

    Args:
        layer: layer to build.
        widths: one width for each of the layer's axes.
    """
    body, inputs = _KINDS[layer.kind](layer, *widths)
    with torch.no_grad():
        output = body(*inputs)
    norms = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]
    tail = [
        norms[output.dim() - 3](output.shape[1]) if name == "batch_norm" and output.dim() > 2 else name
        for name in layer.tail
    ]
    if any(name in BINARY for name in layer.tail):
        inputs = (*inputs, torch.randn_like(output))
    return _Timed(body, tail).eval(), inputs


class _Timed(nn.Module):
    """A layer and its tail; the last input is the shortcut, if there is one."""

    def __init__(self, body: nn.Module, tail: Sequence[nn.Module | str]) -> None:
        super().__init__()
        self.body = body
        self.norms = nn.ModuleList(part for part in tail if isinstance(part, nn.Module))
        self.tail = [part if isinstance(part, str) else "" for part in tail]
        self.takes = any(name in BINARY for name in self.tail)

    def forward(self, *inputs: torch.Tensor) -> Any:
        x = self.body(*inputs[:-1]) if self.takes else self.body(*inputs)
        norms = iter(self.norms)
        for name in self.tail:
            if name in BINARY:
                x = BINARY[name](x, inputs[-1])
            elif name in UNARY:
                x = UNARY[name](x)
            elif not name:
                x = next(norms)(x)
        return x


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


def _convolution(layer: Layer, inward: int, outward: int, groups: int = 1) -> tuple[nn.Module, Inputs]:
    space, transposed = layer["space"], layer["transposed"]
    options = {name: layer[name] for name in ("stride", "padding", "dilation", "bias")}
    if transposed:
        options["output_padding"] = layer["output_padding"]
    build: Any = CONVOLUTIONS[len(space), transposed]
    module: nn.Module = build(inward, outward, layer["kernel"], groups=groups, **options)
    return module, (torch.randn(layer["batch"], inward, *space),)


def _grouped(layer: Layer, groups: int, per_group: int) -> tuple[nn.Module, Inputs]:
    inward, outward = widths_in_group(layer, per_group)
    return _convolution(layer, groups * inward, groups * outward, groups=groups)


def _linear(layer: Layer, inward: int, outward: int) -> tuple[nn.Module, Inputs]:
    return nn.Linear(inward, outward, bias=layer["bias"]), (torch.randn(*layer["rows"], inward),)


def _matmul(layer: Layer, batch: int, moving: int) -> tuple[nn.Module, Inputs]:
    rows, other = layer["rows"], layer["other"]
    inner, columns = (moving, other) if layer["moves"] == "inner" else (other, moving)
    return _Function(torch.bmm), (torch.randn(batch, rows, inner), torch.randn(batch, inner, columns))


def _attention(layer: Layer, heads: int, dims: int) -> tuple[nn.Module, Inputs]:
    lengths = ((layer["rows"], dims - dims // 2), (layer["keys"], dims - dims // 2), (layer["keys"], max(1, dims // 2)))
    inputs = tuple(torch.randn(layer["batch"], heads, length, width) for length, width in lengths)
    mask = dict(layer.settings).get("mask")
    if mask:
        ahead = (1, 1) if mask == "keys" else (heads, layer["rows"])
        inputs = (*inputs, torch.randn(1, *ahead, layer["keys"]))
    return _Function(F.scaled_dot_product_attention), inputs


def _norm(layer: Layer, channels: int) -> tuple[nn.Module, Inputs]:
    build = nn.LayerNorm if layer["form"] == "layer" else nn.RMSNorm
    return build(channels), (torch.randn(*layer["rows"], channels),)


def _pool(layer: Layer, channels: int) -> tuple[nn.Module, Inputs]:
    build: Any = nn.MaxPool2d if layer["form"] == "max" else nn.AvgPool2d
    module: nn.Module = build(layer["kernel"], layer["stride"], layer["padding"])
    return module, (torch.randn(layer["batch"], channels, *layer["space"]),)


def _softmax(layer: Layer, elements: int) -> tuple[nn.Module, Inputs]:
    return nn.Softmax(-1), (torch.randn(max(1, elements // layer["last"]), layer["last"]),)


def _elementwise(layer: Layer, elements: int) -> tuple[nn.Module, Inputs]:
    x = torch.randn(1, max(1, elements // 64), 64)
    form = layer["form"]
    if form in BINARY:
        return _Function(BINARY[form]), (x, torch.randn_like(x))
    if form == "batch_norm":
        return nn.BatchNorm1d(x.shape[1]), (x,)
    return _Function(ELEMENTWISE.get(form) or UNARY[form]), (x,)


def _chain(layer: Layer, operators: int) -> tuple[nn.Module, Inputs]:
    steps = itertools.islice(itertools.cycle((torch.sin, torch.cos)), operators)
    return nn.Sequential(*map(_Function, steps)), (torch.randn(1, 16),)


_KINDS: Mapping[str, Callable[..., tuple[nn.Module, Inputs]]] = {
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
