"""Training and evaluation mode of modules: set for a while, then put back for each module as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["eval_mode", "judging", "preserve_modes"]


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Put networks in evaluation mode inside the block; see `preserve_modes` for what happens at its end.

    Gradients and random state are not touched.

    Args:
        models: the networks; they may share modules.
    """
    with preserve_modes(*models):
        for model in models:
            model.eval()
        yield


@contextmanager
def preserve_modes(*models: nn.Module) -> Iterator[None]:
    """Put the mode of every module back at the end of the block, also where the block raises.

    `model.train(flag)` would give one flag to all modules, and so thaw a batch normalisation that a user froze in a
    network that trains.

    Args:
        models: the networks; they may share modules.
    """
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        # A module whose `train` does more than set flags, such as one that merges adapters, has to be told.
        for module, mode in before:
            if module.training != mode and type(module).train is not nn.Module.train:
                module.train(mode)
        for module, mode in before:
            module.training = mode


@contextmanager
def judging(*models: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode without gradients; modes and random state are put back."""
    found = {parameter.device for model in models for parameter in model.parameters()}
    devices = sorted(device.index or 0 for device in found if device.type == "cuda")
    with eval_mode(*models), torch.no_grad(), torch.random.fork_rng(devices):
        yield
