"""Repairs of a cut network by one process of several, compared with those of one process that has all batches."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import edakari
from edakari.core.plan import Plan
from edakari.core.processes import Processes
from edakari.errors import DataError
from edakari.testing import random_plan, toy_cnn

BATCHES = [torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).double() for seed in range(4)]


def cut() -> tuple[torch.nn.Module, Plan]:
    torch.manual_seed(0)
    model = toy_cnn().double().eval()
    return model, random_plan(edakari.trace(model, BATCHES[0]), keep=0.5)


def repaired(batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors of the network that is recalibrated, and of the one that is refit."""
    model, plan = cut()
    anew = edakari.recalibrate(edakari.apply(model, plan), batches)
    refit = edakari.reconstruct(model, plan, batches)
    return [*anew.state_dict().values(), *refit.state_dict().values()]


def main() -> None:
    alone, (model, plan) = repaired(BATCHES), cut()
    dist.init_process_group("gloo")
    rank = Processes.here().rank
    for mine in (BATCHES[rank::2], BATCHES[:3] if rank else BATCHES[3:], BATCHES if rank else []):
        for found, wanted in zip(repaired(mine), alone, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
    too_small = BATCHES if rank else [torch.zeros(1, 3, 1, 1).double()]
    norm = torch.nn.BatchNorm2d(3).double()
    with pytest.raises(DataError, match="too small"):
        edakari.recalibrate(norm, too_small)
    with pytest.raises(DataError, match="there is no batch"):
        edakari.reconstruct(model, plan, [])
