"""A moving average of a network's weights, as timm makes it, on a copy that edakari makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.optional import needs

__all__ = ["averaged_weights", "hand_over"]


def averaged_weights(model: nn.Module, decay: float) -> Any:
    """An average that begins with a network's weights; its `module` is the network that has them.

    Args:
        model: stays as it is.
        decay: share of the average that each step keeps.
    """
    with needs("train", "averaging weights"):
        # here, for it takes seconds to import
        from timm.utils.model_ema import ModelEmaV3

    # it copies what it gets by `copy.deepcopy`, so the network's copy is put in afterwards
    device = next(model.parameters()).device
    average = ModelEmaV3(nn.ParameterList([torch.empty(0, device=device)]), decay, use_warmup=True)
    average.module = copied(model).eval()
    return average


def hand_over(average: Any, model: nn.Module) -> None:
    """Give a network the averaged weights; changes the network, whose names may be those of a compiled one."""
    with torch.no_grad():
        for own, averaged in zip(model.state_dict().values(), average.module.state_dict().values(), strict=True):
            own.copy_(averaged)
