"""State that `fit` changes and restores: random state, modes, requires_grad, device and the Ctrl-C handler."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

import numpy as np
import torch
from torch import nn

from edakari.core.modes import preserve_modes
from edakari.core.wrappers import check_whole
from edakari.errors import ModelError

__all__ = ["Moved", "Trained", "interruptible", "random_state_kept", "seed_step", "trained"]

Moved = Sequence[tuple[torch.Tensor, torch.Tensor | None]]
"""Pairs of a parameter before a cut and the one that takes its place, None if it was removed."""

NORMS = (nn.modules.batchnorm._BatchNorm,)


class Trained:
    """The trained tensors: `own` belong to the network, in its order; `other` do not.

    Args:
        model: the network.
        params: parameters to train; None trains every parameter with `requires_grad`. Batch normalisations without a
            trained parameter are `frozen`: they keep their statistics.
    """

    def __init__(self, model: nn.Module, params: Sequence[torch.Tensor] | None) -> None:
        wanted = None if params is None else {id(param) for param in params}
        everything = list(model.parameters())
        names = {id(param) for param in everything}
        self.model = model
        self.own = [p for p in everything if (p.requires_grad if wanted is None else id(p) in wanted)]
        self.other = [param for param in params or () if id(param) not in names]
        chosen = {id(param) for param in self.own}
        self.frozen = [
            module
            for module in model.modules()
            if wanted is not None
            and isinstance(module, NORMS)
            and not any(id(param) in chosen for param in module.parameters())
        ]
        self._names = _names_of(model, self.own)

    def follow(self) -> Moved:
        """Take the network's parameters again, after it may have become smaller in place.

        Returns:
            The trained parameters that are no longer in the network; empty if nothing has changed.
        """
        found = dict(self.model.named_parameters(remove_duplicate=False))
        now = [next((found[name] for name in names if name in found), None) for names in self._names]
        moved = [(old, new) for old, new in zip(self.own, now, strict=True) if new is not old]
        if moved:
            self.own = [param for param in now if param is not None]
            self._names = _names_of(self.model, self.own)
        return moved

    def train(self) -> None:
        """Set the network to training mode, in place, except for the frozen normalisations."""
        self.model.train()
        for module in self.frozen:
            module.eval()


def _names_of(model: nn.Module, params: Sequence[torch.Tensor]) -> list[list[str]]:
    """All names of each parameter: the first one of a tied parameter may go with a branch."""
    names: dict[int, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
    return [names[id(param)] for param in params]


@contextlib.contextmanager
def trained(model: nn.Module, params: Sequence[torch.Tensor] | None, device: torch.device) -> Iterator[Trained]:
    """Context with the network on a device and gradients enabled for trained tensors; restores both at the end.

    Raises:
        ModelError: there is nothing to train, or the network is sharded among processes.
    """
    check_whole(model)
    chosen = Trained(model, params)
    if not chosen.own and not chosen.other:
        raise ModelError("fit: no parameter to train; each has requires_grad=False or `params` is empty")
    flags = {name: param.requires_grad for name, param in model.named_parameters(remove_duplicate=False)}
    beside = [(tensor, tensor.requires_grad, tensor.device) for tensor in chosen.other]
    home = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), device)
    active = {id(param) for param in chosen.own}
    try:
        model.to(device)
        for param in model.parameters():
            param.requires_grad_(id(param) in active)
        for tensor in chosen.other:
            tensor.data = tensor.data.to(device)
            tensor.requires_grad_(True)
        with _modes_kept(model):
            yield chosen
    finally:
        # by name: the network may have become smaller
        for name, param in model.named_parameters(remove_duplicate=False):
            param.grad = None
            param.requires_grad_(flags.get(name, param.requires_grad))
        model.to(home)
        for tensor, flag, place in beside:
            tensor.grad = None
            tensor.requires_grad_(flag)
            tensor.data = tensor.data.to(place)


@contextlib.contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Context that restores modes; modules that replace others in it get the modes of those."""
    modes = {path: module.training for path, module in model.named_modules()}
    known = set(model.modules())
    with preserve_modes(model):
        yield
    for path, module in model.named_modules():
        if module not in known:
            module.training = modes.get(path, model.training)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed the random generators for a step from the seed, the step and the process.

    So a resumed run needs no stored random state, on any number of processes.
    """
    value = int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    if torch.accelerator.is_available():
        torch.manual_seed(value)
    else:  # torch.manual_seed would note a stack trace for each kind of device that may come into use later
        torch.default_generator.manual_seed(value)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Context that restores the random states of Python, NumPy and PyTorch at the end."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Context with an event that the first Ctrl-C sets, so that a step completes; a second one interrupts at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)
