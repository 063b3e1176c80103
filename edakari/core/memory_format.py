"""The memory format of a network: the order of the dimensions of its 2-D convolutions' weights.

A convolution whose weight is channels_last gives channels_last feature maps, whatever the format of its input. So the
weights alone decide in which format a network runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

__all__ = [
    "FORMATS",
    "AnyFormat",
    "MemoryFormat",
    "convolutions",
    "in_memory_format",
    "memory_format_of",
    "set_memory_format_",
]

MemoryFormat = Literal["contiguous", "channels_last"]
AnyFormat = Literal["auto", "contiguous", "channels_last"]
"""A format that a user asks for; "auto" leaves the choice to edakari."""
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def convolutions(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the 2-D convolutions of a network that hold their weight themselves.

    Args:
        model: the network.
    """
    for module in model.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and weight is not None and weight.dim() == 4:
            yield module


def memory_format_of(model: nn.Module) -> MemoryFormat:
    """Return the format of a network, that of the first convolution whose weight tells it.

    A weight with one input channel or a kernel of 1 x 1 lies in both formats alike.
    """
    for module in convolutions(model):
        weight: torch.Tensor = module.weight  # type: ignore[assignment]
        last = weight.is_contiguous(memory_format=torch.channels_last)
        if last != weight.is_contiguous():
            return "channels_last" if last else "contiguous"
    return "contiguous"


def set_memory_format_(model: nn.Module, form: MemoryFormat) -> None:
    """Set the format of a network, in place; values and parameters stay the same objects.

    Args:
        model: the network.
        form: format of the weights of 2-D convolutions; all other tensors stay as they are.
    """
    for module in convolutions(model):
        module.weight.data = module.weight.data.to(memory_format=FORMATS[form])


@contextlib.contextmanager
def in_memory_format(model: nn.Module, form: MemoryFormat | None) -> Iterator[None]:
    """Context with a network in a format; restores its former format at the end.

    Args:
        model: the network.
        form: the format; None leaves the network as it is.
    """
    before = memory_format_of(model)
    if form is None or form == before:
        yield
        return
    set_memory_format_(model, form)
    try:
        yield
    finally:
        set_memory_format_(model, before)
