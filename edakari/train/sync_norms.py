"""Batch normalisations that take their statistics from the batch parts of all processes.

torch's `SyncBatchNorm` computes them. The network keeps its own modules, which pass on their tensors in a step only. So
nothing is left of it in a network that is evaluated, copied or saved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from edakari.core.stand_ins import has_stand_in, put_stand_in, take_stand_in_off
from edakari.errors import ModelError, RecipeError
from edakari.train.scope import NORMS

__all__ = ["SyncedNorms", "require_sync_norms"]

PASSED_ON = (
    *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    *("training", "track_running_stats", "momentum", "eps"),
)
"""Attributes by which a normalisation computes; a mask may have replaced a tensor since the last step."""


def require_sync_norms(device: torch.device, world: int) -> None:
    """Refuse processes on CPUs, for which torch does not compute common statistics.

    Args:
        device: device of the training.
        world: number of processes; one alone has nothing to synchronise.

    Raises:
        RecipeError: there are several, and they train on CPUs.
    """
    if world > 1 and device.type == "cpu":
        raise RecipeError(
            f"sync_bn: torch's SyncBatchNorm needs a GPU for each process, and these {world} train on the CPU; leave "
            "sync_bn out, or start one process, whose batch norms see whole batches"
        )


class SyncedNorms:
    """The batch normalisations of a network that trains on several processes.

    Args:
        model: the network as it is now; make this object again after a cut.

    Raises:
        ModelError: a batch normalisation computes in its own way.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = {path: module for path, module in model.named_modules() if isinstance(module, NORMS)}
        self.forwards = [
            (module, _Forward(path, module)) for path, module in norms.items() if type(module) is not nn.SyncBatchNorm
        ]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Context in which they use common statistics; a step's backward pass belongs into it, too."""
        for module, forward in self.forwards:
            put_stand_in(module, forward)
        try:
            yield
        finally:
            for module, _ in self.forwards:
                take_stand_in_off(module)


class _Forward:
    """Forward pass of a normalisation by `SyncBatchNorm`."""

    def __init__(self, path: str, module: Any) -> None:
        # timm's normalisation has an activation
        with_activation = type(module).__name__.startswith("BatchNormAct")
        own = type(module).forward is not nn.modules.batchnorm._BatchNorm.forward or has_stand_in(module)
        if own and not with_activation:
            raise ModelError(
                f"sync_bn: the batch normalisation {path!r} is of the class {type(module).__name__}, which computes in "
                "its own way; leave sync_bn out, or replace it by one of torch.nn"
            )
        self.module, self.after = module, ("drop", "act") if with_activation else ()
        self.synced = nn.SyncBatchNorm(module.num_features, device="meta")

    def __call__(self, images: torch.Tensor) -> Any:
        vars(self.synced).update({name: getattr(self.module, name) for name in PASSED_ON})
        found = self.synced.forward(images)
        for name in self.after:
            found = getattr(self.module, name)(found)
        return found
