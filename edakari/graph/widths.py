"""Attributes of torch's own modules that hold a weight's width, for code that reads them: `self.fc.in_features`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from edakari.core.modules import modules_of
from edakari.graph.algebra import DimExpr, size

__all__ = ["known_widths", "width_attributes"]


def width_attributes(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the integer attributes that count a dimension of the module's weight, each with the dimension."""
    if isinstance(module, nn.Linear):
        yield from (("in_features", 1), ("out_features", 0))
    elif isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1:
        inward = 0 if module.transposed else 1
        yield from (("in_channels", inward), ("out_channels", 1 - inward))
    elif isinstance(module, nn.Embedding):
        yield "embedding_dim", 1
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        yield "num_features", 0


def known_widths(
    model: nn.Module, dims_of: Callable[[torch.Tensor], Sequence[DimExpr]]
) -> dict[tuple[str, str], DimExpr]:
    """Return the dimension that each such attribute of a network counts, by module path and attribute name."""
    found: dict[tuple[str, str], DimExpr] = {}
    for path, module in modules_of(model):
        weight = module._parameters.get("weight")
        if weight is None:
            continue
        for name, index in width_attributes(module):
            dims = dims_of(weight)
            if len(dims) > index and size(dims[index]) == getattr(module, name):
                found[path, name] = dims[index]
    return found
