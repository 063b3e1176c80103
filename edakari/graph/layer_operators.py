"""Operators of torch's own layers on meta tensors, for passes that skip the layers' code and torch's dispatch.

Each function states which operator the layer's `forward` would call, with which arguments. Where `forward` might do
anything else, such as padding in a mode, updating statistics or raising an error, it returns None, and the code runs.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from edakari.graph.meta_shapes import SHORTCUTS

__all__ = ["LAYERS", "LayerOperator", "is_plain", "operator_of"]

NO_KWARGS: Mapping[str, Any] = types.MappingProxyType({})


class LayerOperator(NamedTuple):
    """The operator that a layer calls.

    Args:
        name: full name of the operator or function; empty if the layer returns its input.
        args: its positional arguments.
        kwargs: its named arguments.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = NO_KWARGS

    def run(self) -> Any:
        """Return the operator's result; None if its shape is not known in advance."""
        return SHORTCUTS[self.name](self.args, self.kwargs) if self.name else self.args[0]


def operator_of(module: nn.Module, x: Any) -> LayerOperator | None:
    """Return the operator that a plain layer calls on a meta tensor; None if its code must run."""
    return LAYERS[type(module)](module, x) if type(x) is torch.Tensor and x.is_meta else None


def is_plain(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's own, without hooks or another `forward`."""
    cls = type(module)
    return (
        cls in LAYERS
        and cls.forward is FORWARDS[cls]
        and "forward" not in vars(module)
        and not (module._forward_pre_hooks or module._forward_hooks)
        and not (module._backward_pre_hooks or module._backward_hooks)
    )


def _convolution(module: Any, x: torch.Tensor) -> LayerOperator | None:
    weight = module.weight
    if module.padding_mode != "zeros" or isinstance(module.padding, str) or x.dim() != weight.dim():
        return None
    stride, padding, dilation = [*module.stride], [*module.padding], [*module.dilation]
    more = (stride, padding, dilation, False, [0] * len(stride), module.groups)
    return LayerOperator("aten.convolution", (x, weight, module.bias, *more))


def _batch_norm(module: Any, x: torch.Tensor) -> LayerOperator | None:
    mean, variance = module.running_mean, module.running_var
    if module.training or mean is None or variance is None or module.eps < 0 or x.dim() not in RANKS[type(module)]:
        return None
    momentum = 0.0 if module.momentum is None else module.momentum
    args = (x, module.weight, module.bias, mean, variance, False, momentum, module.eps)
    return LayerOperator("aten.native_batch_norm", args)


def _layer_norm(module: Any, x: torch.Tensor) -> LayerOperator:
    return LayerOperator(
        "aten.native_layer_norm", (x, [*module.normalized_shape], module.weight, module.bias, module.eps)
    )


def _linear(module: Any, x: torch.Tensor) -> LayerOperator:
    return LayerOperator("linear", (x, module.weight, module.bias))


def _activation(name: str, *numbers: float) -> Callable[[Any, torch.Tensor], LayerOperator]:
    """The function of an activation that may write to its input."""

    def operator(module: Any, x: torch.Tensor) -> LayerOperator:
        return LayerOperator(f"{name}_" if module.inplace else name, (x, *numbers))

    return operator


def _gelu(module: Any, x: torch.Tensor) -> LayerOperator:
    return LayerOperator("aten.gelu", (x,), {"approximate": module.approximate})


def _dropout(module: Any, x: torch.Tensor) -> LayerOperator | None:
    return None if module.training else LayerOperator("", (x,))


def _identity(module: Any, x: torch.Tensor) -> LayerOperator:
    return LayerOperator("", (x,))


RANKS = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
"""Numbers of dimensions that batch norms accept."""

LAYERS: dict[type[nn.Module], Callable[[Any, torch.Tensor], LayerOperator | None]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys(RANKS, _batch_norm),
    nn.LayerNorm: _layer_norm,
    nn.Linear: _linear,
    nn.ReLU: _activation("aten.relu"),
    nn.ReLU6: _activation("aten.hardtanh", 0.0, 6.0),
    nn.SiLU: _activation("aten.silu"),
    nn.Hardswish: _activation("aten.hardswish"),
    nn.GELU: _gelu,
    nn.Dropout: _dropout,
    nn.Identity: _identity,
}
"""Function of each class of layers; subclasses have code of their own."""

FORWARDS = {cls: cls.forward for cls in LAYERS}
"""The code of each class as torch has it, which programs may replace."""
