"""Masks that do not change: hook and function that keep masked weights at zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edakari.core.protocols import Hook, StepState
from edakari.errors import PlanError
from edakari.methods.tickets.masking import Masking
from edakari.train.gradients import BeforeUpdate

__all__ = ["FixedMasks", "with_zeros_"]


class FixedMasks(Hook):
    """Keeps masked weights at zero while a network trains, such as in the fine-tuning after masks were chosen.

    Args:
        model: network to train.
        masks: bool masks by parameter, True where a weight stays; such as `edakari.surgery.held_masks(model)`.

    Raises:
        PlanError: the network has no such parameter, or one of another shape.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
        there = _checked(model, masks)
        self.masks = dict(masks)
        self._masking = Masking({name: there[name] for name in masks})
        self._masking.take(masks)
        self._masking.zero_()
        self._watched = BeforeUpdate(self._masking.zero_gradients)

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        self._watched.watch(state.optimizer)

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self._masking.zero_()


@torch.no_grad()
def with_zeros_(network: nn.Module, masks: Mapping[str, torch.Tensor]) -> nn.Module:
    """Set masked weights to zero, in place, and return the network.

    Args:
        network: the network.
        masks: bool masks by parameter, True where a weight stays.

    Raises:
        PlanError: the network has no such parameter, or one of another shape.
    """
    there = _checked(network, masks)
    for name, mask in masks.items():
        weight = there[name]
        weight.masked_fill_(~mask.to(weight.device), 0)
    return network


def _checked(network: nn.Module, masks: Mapping[str, torch.Tensor]) -> dict[str, nn.Parameter]:
    """The parameters of a network, if it has those that masks are of."""
    there = dict(network.named_parameters())
    for name, mask in masks.items():
        if name not in there or there[name].shape != mask.shape:
            found = f"one of shape {list(there[name].shape)}" if name in there else "none"
            raise PlanError(
                f"the mask of {name!r} has the shape {list(mask.shape)}, but the network has {found} of this name; are "
                "the masks of another network?"
            )
    return there
