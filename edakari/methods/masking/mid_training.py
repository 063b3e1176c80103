"""Cut of the masked channels in mid-training, once the masks are final: the rest of the training is cheaper."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edakari.core.plan import Plan
from edakari.core.protocols import StepState
from edakari.errors import EdakariError
from edakari.methods.masking.masks import Masks
from edakari.surgery.shrinking import shrink

__all__ = ["cut_masked"]

IN_UNITS_OF_GRADIENTS = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2}
"""States of optimizers that average gradients, and the power of the gradient that they average."""


def cut_masked(masks: Masks, plan: Plan, state: StepState) -> str | None:
    """Cut the masked channels from the network, its optimizer and its averages, in place.

    Scales of batch norms are multiplied into the parameters. Their gradients were divided by the scale, so that states
    of the optimizer that average gradients are multiplied by it. The training then continues as it would with masks.

    Args:
        masks: masks of the network, which computes without them afterwards.
        plan: plan that removes the masked channels.
        state: state of the training, between two steps.

    Returns:
        None; or, if the network cannot be cut in place, the reason, and nothing has changed.
    """
    scales = {norm: scale for norm in masks.scaled if (scale := masks.scale(norm)) != 1.0}
    masks.lift()
    try:
        shrink(state.model, plan, state.optimizer, *state.averages, graph=masks.graph)
    except EdakariError as error:
        masks.set(masks.mask)
        return str(error)
    averaged = [inside for each in state.averages if isinstance(inside := getattr(each, "module", None), nn.Module)]
    for network in (masks.model, *averaged):
        _multiply(network, scales)
    _rescale_states(masks.model, scales, state.optimizer)
    return None


@torch.no_grad()
def _multiply(network: nn.Module, scales: Mapping[str, float]) -> None:
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for norm, scale in scales.items():
        if norm in parameters:  # else it is part of a branch that was dropped
            parameters[norm].mul_(scale)


def _rescale_states(network: nn.Module, scales: Mapping[str, float], optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for norm, scale in scales.items():
        found = optimizer.state.get(parameters[norm], {}) if norm in parameters else {}
        for name, power in IN_UNITS_OF_GRADIENTS.items():
            if isinstance(found.get(name), torch.Tensor):
                found[name].mul_(scale**power)
