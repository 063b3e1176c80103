"""An L2 penalty on weights that every optimizer gets with the gradients, apart from its own weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from edakari.core.protocols import Hook, Schedule, StepState
from edakari.train.gradients import with_gradients

__all__ = ["WeightPenalty", "penalised", "penalty_of"]

LAYERS = (_ConvNd, nn.Linear, nn.MultiheadAttention)
"""Modules whose weights are penalised."""


class WeightPenalty(Hook):
    """Adds the gradient of `factor / 2` times the sum of squared weights, as if the loss had this term.

    It counts weights of convolutions, linear layers and attention, and the bias of the network's last linear or
    convolutional layer, which is the classifier in most networks. Norms have no part in it. It comes after gradient
    clipping and after other hooks that change gradients, and takes the weights as they are then. Losses that are shown
    lack it.

    Args:
        factor: factor of the weights in the gradients.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._end: Callable[[], None] = lambda: None

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        model = state.model
        self._end = with_gradients(state.optimizer, lambda: self._add(model))

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self._end()

    @torch.no_grad()
    def _add(self, model: nn.Module) -> None:
        # found again in each step, since a hook may have cut the network
        pairs = [(param.grad, param.detach()) for param in penalised(model) if param.grad is not None]
        if pairs:
            torch._foreach_add_([grad for grad, _ in pairs], [weight for _, weight in pairs], alpha=self.factor)


def penalty_of(schedule: Schedule) -> tuple[WeightPenalty, ...]:
    """Return the hook that adds a schedule's penalty, if it has one; it comes after all other hooks."""
    return (WeightPenalty(schedule.l2),) if schedule.l2 else ()


def penalised(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that `WeightPenalty` counts, each once."""
    seen: set[int] = set()
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    biases = [module.bias for module in layers if isinstance(module, _ConvNd | nn.Linear)]
    # a parametrised weight is the parameter of a module inside
    weights = (param for module in layers for param in module.parameters() if param.ndim > 1)
    for param in (*weights, *biases[-1:]):
        if isinstance(param, nn.Parameter) and id(param) not in seen:
            seen.add(id(param))
            yield param
