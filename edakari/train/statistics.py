"""Batch normalisations: by the statistics of the batch at hand, or with running statistics taken anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.core.protocols import Batch, Task
from edakari.train.scope import NORMS, random_state_kept

__all__ = ["batch_statistics", "has_norms", "recalibrate_"]


def has_norms(model: nn.Module) -> bool:
    """Whether a network has batch normalisations that keep running statistics."""
    return any(isinstance(module, NORMS) and module.track_running_stats for module in model.modules())


@contextlib.contextmanager
def batch_statistics(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Evaluation mode, but batch normalisations take the statistics of each batch; running ones stay as they are.

    Args:
        model: its modes are as found afterwards.
        wanted: False is plain evaluation mode.
    """
    norms = [module for module in model.modules() if wanted and isinstance(module, NORMS)]
    tracked = [module.track_running_stats for module in norms]
    with eval_mode(model):
        try:
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
            yield
        finally:
            for norm, flag in zip(norms, tracked, strict=True):
                norm.track_running_stats = flag


def recalibrate_(model: nn.Module, task: Task, batches: Iterable[Batch]) -> None:
    """Take the running statistics of batch normalisations anew, in place: means over some batches.

    Args:
        model: its modes are as found afterwards; without batch normalisations nothing happens.
        task: gives the outputs.
        batches: not augmented.
    """
    norms = [module for module in model.modules() if isinstance(module, NORMS) and module.track_running_stats]
    momenta = [module.momentum for module in norms]
    with eval_mode(model), torch.no_grad(), random_state_kept():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.training, norm.momentum = True, None
            for batch in batches if norms else ():
                task.outputs(model, batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
