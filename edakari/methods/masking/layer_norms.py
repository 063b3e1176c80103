"""Layer norms of masked networks, with the statistics of the unmasked channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from edakari.methods.masking.consumers import LayerNormConsumer

if TYPE_CHECKING:
    from edakari.methods.masking.masks import Masks

__all__ = ["normalised_where_unmasked"]


def normalised_where_unmasked(masks: Masks, norm: LayerNormConsumer) -> Callable[[Any, Any, Any], Any]:
    """Return a forward hook that gives a layer norm's output with the statistics of the unmasked channels alone.

    Args:
        masks: current masks of the network.
        norm: the layer norm and the layout of the dimension that it normalises.
    """

    def normalised(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        x = args[0].float() if args[0].dtype in (torch.float16, torch.bfloat16) else args[0]
        mask = masks.positions(norm.layout, x)
        if mask is None:
            return output
        shape = [-1, *[1] * (-norm.dim - 1)]
        mask = mask.view(shape)
        count = mask.sum()
        centred = x - (x * mask).sum(norm.dim, keepdim=True) / count
        variance = (centred.square() * mask).sum(norm.dim, keepdim=True) / count
        out = centred * torch.rsqrt(variance + module.eps) * module.weight.view(shape)
        shifted: torch.Tensor = out if module.bias is None else out + module.bias.view(shape)
        return shifted.to(output.dtype)

    return normalised
