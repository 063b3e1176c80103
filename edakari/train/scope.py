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
from edakari.errors import ModelError

__all__ = ["Trained", "interruptible", "random_state_kept", "seed_step", "trained"]

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

    def train(self) -> None:
        """Set the network to training mode, in place, except for the frozen normalisations."""
        self.model.train()
        for module in self.frozen:
            module.eval()


@contextlib.contextmanager
def trained(model: nn.Module, params: Sequence[torch.Tensor] | None, device: torch.device) -> Iterator[Trained]:
    """Context with the network on a device and gradients enabled for trained tensors; restores both at the end.

    Raises:
        ModelError: there is nothing to train.
    """
    chosen = Trained(model, params)
    if not chosen.own and not chosen.other:
        raise ModelError("fit: no parameter to train; each has requires_grad=False or `params` is empty")
    asked = [(param, param.requires_grad) for param in (*model.parameters(), *chosen.other)]
    homes = [(param, param.device) for param in (*model.parameters(), *model.buffers(), *chosen.other)]
    active = {id(param) for param in (*chosen.own, *chosen.other)}
    try:
        model.to(device)
        for param in chosen.other:
            param.data = param.data.to(device)
        for param, _ in asked:
            param.requires_grad_(id(param) in active)
        with preserve_modes(model):
            yield chosen
    finally:
        for param, flag in asked:
            param.grad = None
            param.requires_grad_(flag)
        home = next((home for _, home in homes), device)
        model.to(home)
        for param in chosen.other:
            param.data = param.data.to(next(home for found, home in homes if found is param))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed the random generators for a step from the seed, the step and the process.

    So a resumed run needs no stored random state, on any number of processes.
    """
    value = int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


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
