"""Batch normalisations: by the statistics of the batch at hand, or with running statistics taken anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require, require_methods
from edakari.core.copying import copied
from edakari.core.feeding import feed
from edakari.core.modes import eval_mode
from edakari.core.networks import unwrapped
from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.errors import DataError
from edakari.train.scope import NORMS, random_state_kept

__all__ = ["batch_statistics", "has_norms", "recalibrate", "recalibrate_"]

Run = Callable[[nn.Module, Batch], Any]
"""Calls a network with a batch."""


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


def recalibrate(model: nn.Module, batches: Iterable[Batch], run: Run = feed) -> nn.Module:
    """A copy of a network whose batch normalisations have the statistics of some batches: no labels, no training.

    A cut network has other activations than the one whose running means and variances it inherited. Taking them anew
    often brings back most of what a cut costs. Under several processes all of them call this, and the statistics are
    those of all their batches.

    Args:
        model: the network; stays as it is.
        batches: inputs as in evaluation, not augmented, at least two in a batch; some hundred images are enough. Labels
            beside them are not read.
        run: calls a network with a batch; needed where a batch is no tensor, and no tuple or dict that begins with or
            names the network's inputs.

    Returns:
        The copy, its modes those of `model`. Layers without running statistics stay as they are.

    Raises:
        DataError: there is no batch, or one is too small for statistics.
    """
    call = "recalibrate(model, batches)"
    network = unwrapped(model, call)
    require(call, batches=(batches, Iterable))
    require_methods(call, "run", run, ("__call__",))
    fresh = copied(network)
    count = recalibrate_(fresh, run, batches)
    here = Processes.here()
    total = int(here.reduced(torch.tensor(float(count))))
    if not total and has_norms(fresh):
        raise DataError("recalibrate(model, batches): there is no batch to take statistics of")
    for norm in _tracking(fresh) if total > count else ():
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(here.reduced(statistic * count) / total)
    return fresh


def recalibrate_(model: nn.Module, run: Run, batches: Iterable[Batch]) -> int:
    """Take the running statistics of batch normalisations anew, in place: means over some batches.

    Args:
        model: its modes are as found afterwards; without batch normalisations nothing happens.
        run: calls it with a batch.
        batches: not augmented.

    Returns:
        Number of batches; without any, the statistics are the initial ones.
    """
    norms, count = _tracking(model), 0
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model), torch.no_grad(), random_state_kept():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.training, norm.momentum = True, None
            for batch in batches if norms else ():
                run(model, batch)
                count += 1
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(f"a batch is too small to take statistics of: {error}") from error
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return count


def _tracking(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, NORMS) and module.track_running_stats]
