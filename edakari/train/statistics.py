"""Statistics of batch normalisations: use of batch statistics, and recalibration of running statistics."""

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

__all__ = ["Run", "batch_statistics", "has_norms", "recalibrate", "recalibrate_"]

Run = Callable[[nn.Module, Batch], Any]
"""Function that calls a network with a batch."""


def has_norms(model: nn.Module) -> bool:
    """Return whether a network has batch normalisations with running statistics."""
    return any(isinstance(module, NORMS) and module.track_running_stats for module in model.modules())


@contextlib.contextmanager
def batch_statistics(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Context of evaluation mode in which batch normalisations use batch statistics and keep their running ones.

    Args:
        model: the network; its modes are restored afterwards.
        wanted: False gives plain evaluation mode.
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
    """Copy a network and recompute its batch normalisation statistics on some batches, without labels or training.

    The activations of a pruned network differ from those of the dense network, but it inherits the dense network's
    running means and variances. Recomputing them often recovers most of the lost accuracy. With several processes, all
    of them call this function, and the statistics cover the batches of all processes.

    Args:
        model: the network; it does not change.
        batches: batches of inputs as in evaluation, without augmentation, with at least two inputs each. A few hundred
            images are enough. Labels are ignored.
        run: function that calls a network with a batch. It is needed unless a batch is a tensor, a tuple that begins
            with the network's inputs, or a dict with their names.

    Returns:
        The copy, in the modes of `model`. Layers without running statistics do not change.

    Raises:
        DataError: there is no batch, or one is too small for statistics.
    """
    call = "recalibrate(model, batches)"
    network = unwrapped(model, call)
    require(call, batches=(batches, Iterable))
    require_methods(call, "run", run, ("__call__",))
    fresh = copied(network)
    here, count, fault = Processes.here(), 0, ""
    try:
        count = recalibrate_(fresh, run, batches)
    except DataError as error:
        fault = str(error)
    fault = here.first_fault(fault)  # a process that stopped alone would leave the others waiting
    if fault:
        raise DataError(fault)
    total = int(here.reduced(torch.tensor(float(count))))
    if not total and has_norms(fresh):
        raise DataError("recalibrate(model, batches): there is no batch to take statistics of")
    for norm in _tracking(fresh) if here.world > 1 and total else ():
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(here.reduced(statistic * count) / total)
        norm.num_batches_tracked.fill_(total)
    return fresh


def recalibrate_(model: nn.Module, run: Run, batches: Iterable[Batch]) -> int:
    """Recompute the running statistics of batch normalisations, in place, as means over some batches.

    Args:
        model: the network; its modes are restored. Without batch normalisations nothing happens.
        run: function that calls the network with a batch.
        batches: batches without augmentation.

    Returns:
        The number of batches; with 0, the statistics are the initial ones.
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
