"""Contexts that set training or evaluation mode, and restore the mode of each module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["eval_mode", "judging", "preserve_modes", "training_code"]


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Context of evaluation mode; `preserve_modes` restores the modes at the end.

    Gradients and random state are not changed.

    Args:
        models: the networks; they may share modules.
    """
    with preserve_modes(*models):
        for model in models:
            model.eval()
        yield


@contextmanager
def preserve_modes(*models: nn.Module) -> Iterator[None]:
    """Context that restores the mode of every module at the end, also after an exception.

    `model.train(flag)` would set all modules to one mode, and so unfreeze a batch normalisation that the user froze in
    a network in training mode.

    Args:
        models: the networks; they may share modules.
    """
    before = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        # Call `train` of modules that do more in it than set flags, such as modules that merge adapters.
        for module, mode in before:
            if module.training != mode and type(module).train is not nn.Module.train:
                module.train(mode)
        for module, mode in before:
            module.training = mode


@contextmanager
def training_code(*models: nn.Module) -> Iterator[None]:
    """Context in which networks run the code for training; `preserve_modes` restores the modes at the end.

    Modules with children are in training mode. Layers stay in evaluation mode, because one example has no batch
    statistics.

    Args:
        models: the networks; they may share modules.
    """
    with preserve_modes(*models):
        for model in models:
            for module in model.modules():
                module.training = any(True for _ in module.children())
        yield


@contextmanager
def judging(*models: nn.Module) -> Iterator[None]:
    """Context of evaluation mode without gradients; restores modes and random state."""
    found = {parameter.device for model in models for parameter in model.parameters()}
    devices = sorted(device.index or 0 for device in found if device.type == "cuda")
    with eval_mode(*models), torch.no_grad(), torch.random.fork_rng(devices):
        yield
