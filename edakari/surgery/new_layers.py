"""New prediction layers: like the old ones, with another number of outputs and new weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from edakari.errors import ModelError

__all__ = ["follow_outputs", "new_layer", "outputs_of_layer"]

CONV = ("in_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
OUTPUTS: Mapping[type[nn.Module], tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        nn.Linear: ("out_features", ("in_features",)),
        nn.Conv1d: ("out_channels", CONV),
        nn.Conv2d: ("out_channels", CONV),
        nn.Conv3d: ("out_channels", CONV),
        nn.ConvTranspose1d: ("out_channels", (*CONV, "output_padding")),
        nn.ConvTranspose2d: ("out_channels", (*CONV, "output_padding")),
        nn.ConvTranspose3d: ("out_channels", (*CONV, "output_padding")),
    }
)
"""Layers that can be made again: the argument with the number of outputs, and the others."""
COUNTS = ("num_classes", "num_labels", "n_classes", "num_columns", "nc")
"""Attributes in which networks and their configurations hold the number of their outputs."""


def outputs_of_layer(layer: nn.Module) -> int | None:
    """Return the number of outputs of a layer; None for a module that `new_layer` cannot make."""
    kind = _kind(layer)
    return None if kind is None else int(getattr(layer, OUTPUTS[kind][0]))


def new_layer(layer: nn.Module, outputs: int, name: str) -> nn.Module:
    """Make a layer with another number of outputs, initialised as its class does.

    Args:
        layer: a linear layer or a convolution.
        outputs: number of outputs.
        name: dotted path of the layer, for errors.

    Returns:
        A layer of the same class, on the same device, in the same type and mode.

    Raises:
        ModelError: the class takes other arguments than the layer that it is based on.
    """
    kind = _kind(layer)
    assert kind is not None
    argument, others = OUTPUTS[kind]
    weight: Any = layer.weight
    given: dict[str, Any] = {each: getattr(layer, each) for each in others}
    try:
        made = type(layer)(**given, **{argument: outputs}, bias=layer.bias is not None)
        made.to(device=weight.device, dtype=weight.dtype)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"a {type(layer).__name__} of {outputs} outputs cannot be made for {name!r}: {error}. Replace the layer in "
            "the network yourself"
        ) from error
    return made.train(layer.training)


def follow_outputs(model: nn.Module, name: str, before: int, after: int) -> None:
    """Set the attributes that hold the number of a layer's outputs, in place.

    Looks at the modules around the layer and at their configurations, such as `model.config.num_labels`.

    Args:
        model: network.
        name: dotted path of the layer.
        before: earlier number of outputs; a multiple of it in attributes, for anchors and the like.
        after: number of outputs now.
    """
    parts = name.split(".")[:-1]
    for length in range(len(parts) + 1):
        module = model.get_submodule(".".join(parts[:length]))
        for holder in (module, getattr(module, "config", None)):
            for count in COUNTS if holder is not None else ():
                value = getattr(holder, count, None)
                if isinstance(value, int) and value > 0 and before % value == 0 and after % (before // value) == 0:
                    setattr(holder, count, after // (before // value))


def _kind(layer: nn.Module) -> type[nn.Module] | None:
    if not isinstance(getattr(layer, "weight", None), torch.Tensor) or hasattr(layer, "parametrizations"):
        return None
    return next((kind for kind in OUTPUTS if isinstance(layer, kind)), None)
