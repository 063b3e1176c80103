"""Weights that plans mask stay zero in a training."""

from __future__ import annotations

import torch
from torch import nn

from edakari.core.protocols import Hook, StepState
from edakari.surgery import held_masks

__all__ = ["HeldWeights"]


class HeldWeights(Hook):
    """Sets the masked weights of a network to zero after each step.

    Args:
        model: network whose plans mask weights; without masks the hook does nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        named = dict(model.named_parameters())
        self.held = [(named[name], mask.to(named[name].device)) for name, mask in held_masks(model).items()]

    def after_step(self, state: StepState) -> None:
        """Set the masked weights to zero."""
        with torch.no_grad():
            for parameter, mask in self.held:
                parameter.mul_(mask)
