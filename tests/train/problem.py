"""A small problem with all that makes resuming hard: dropout, batch normalisation, shuffling, momentum, a hook."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from edakari.core.protocols import Hook, Schedule
from edakari.tasks.loaders import ArrayBatches
from edakari.tasks.order import Order
from edakari.tasks.pixels import Pixels
from edakari.tasks.sources import Arrays
from edakari.train import FitSettings, fit


class Noise(Hook):
    """Adds noise to the weights, with a state of its own; may end the process the hard way."""

    def __init__(self, kill_at=-1, how=signal.SIGKILL):
        self.generator, self.kill_at, self.how, self.seen = torch.Generator().manual_seed(3), kill_at, how, 0

    def after_step(self, state):
        self.seen += 1
        with torch.no_grad():
            first = next(state.model.parameters())
            first.add_(torch.randn(first.shape, generator=self.generator), alpha=1e-3)
        if state.step == self.kill_at:
            os.kill(os.getpid(), self.how)

    def state_dict(self):
        return {"generator": self.generator.get_state(), "seen": self.seen}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])
        self.seen = state["seen"]


def network(norm=True):
    torch.manual_seed(11)
    layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2) if norm else nn.Identity(), nn.Linear(6 * 16, 3))


def batches(count=64, batch_size=8):
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = (generator.integers(0, 120, (count, 6, 6, 1)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    pixels = Pixels((6, 6), 1, (0.5,), (0.25,), pad=1, flip=True)
    return ArrayBatches(Arrays(images, labels, ("a", "b", "c")), Order(count, batch_size, 5, shuffle=True), pixels)


def objective(model, batch):
    logits = model(batch[0])
    return {"ce": nn.functional.cross_entropy(logits, batch[1]), "size": 1e-3 * logits.square().mean()}


SCHEDULE = Schedule(epochs=3, lr=0.05, accumulate=2, clip=1.0, ema=0.9)


def main(folder, kill_at, how):
    """Train, perhaps until something ends the process, and write the weights."""
    model, hook = network(), Noise(int(kill_at), getattr(signal, how))
    settings = FitSettings(folder=Path(folder), checkpoint_steps=2, device="cpu")
    history = fit(model, objective, batches(), SCHEDULE, hooks=[hook], settings=settings)
    save_file(model.state_dict(), Path(folder) / "final.safetensors")
    (Path(folder) / "final.json").write_text(json.dumps([list(history.epochs), history.steps, hook.seen]))
