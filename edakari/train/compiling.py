"""The network of a training, compiled by `torch.compile` if that was asked for."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import nn

from edakari.errors import EdakariWarning

__all__ = ["Compile", "compiled", "warn_uncompiled"]

Compile = Literal["none", "default", "reduce-overhead"]
"""How a training compiles its network: not at all, or in one of two modes of `torch.compile`; "reduce-overhead" adds
CUDA graphs, which start all kernels of a pass at once."""


def compiled(model: nn.Module, how: Compile, world: int) -> nn.Module:
    """Return a network with the same tensors whose passes are compiled at its first call; the network itself if not.

    Args:
        model: the network.
        how: mode of the compilation; "none" does not compile.
        world: number of processes that train; with several, nothing is compiled, and a warning says so.
    """
    if how == "none":
        return model
    if world > 1:
        warn_uncompiled(f"{world} processes train together, where compilation is not supported")
        return model
    make: Any = torch.compile  # its annotations lose the module's type
    # the last batch of an epoch may be smaller: its shape is compiled as well, as fixed sizes are faster
    made: nn.Module = make(model, mode=how, dynamic=False)
    return made


def warn_uncompiled(why: object) -> None:
    """Warn that a training continues with a network that is not compiled.

    Args:
        why: the reason, or the error of the compiler.
    """
    said = " ".join((f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)).split())
    warnings.warn(
        f"the training continues without torch.compile: {said[:300]}; set compile: none to leave it out",
        EdakariWarning,
        stacklevel=2,
    )
