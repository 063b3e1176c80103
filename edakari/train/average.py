"""An exponential moving average of a network's weights: timm's average on edakari's copy of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.optional import needs

__all__ = ["averaged_weights", "hand_over"]


def averaged_weights(model: nn.Module, decay: float) -> Any:
    """Start a moving average of a network's weights; its `module` is the network with the averaged weights.

    Args:
        model: the network; it does not change.
        decay: fraction of the average that each step keeps.
    """
    with needs("train", "averaging weights"):
        # imported here because it takes seconds
        from timm.utils.model_ema import ModelEmaV3

    # ModelEmaV3 copies by `copy.deepcopy`, so edakari's copy of the network replaces that copy
    device = next(model.parameters()).device
    average = ModelEmaV3(nn.ParameterList([torch.empty(0, device=device)]), decay, use_warmup=True)
    average.module = copied(model).eval()
    return average


def hand_over(average: Any, model: nn.Module) -> None:
    """Copy the averaged weights into a network, in place; names may be those of a compiled network."""
    with torch.no_grad():
        for own, averaged in zip(model.state_dict().values(), average.module.state_dict().values(), strict=True):
            own.copy_(averaged)
