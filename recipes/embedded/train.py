"""Trains the embedded networks on all 60,000 training images of Fashion-MNIST.

Usage: python recipes/embedded/train.py fashion_cnn OUT.safetensors [/usr/share/datasets/fashion-mnist]

The weights that ship were made with these settings, data and augmentation, by the draft of this file; this version of
it has not been run to the end.
"""

from __future__ import annotations

import dataclasses as dc
import math
import sys
import time
from pathlib import Path

import torch
from data import SOURCE, read
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from edakari.models import build

SEED, BATCH, SIDE, SHIFT, WARMUP = 0, 128, 28, 2, 0.1
MEAN, STD = 0.2860, 0.3530


@dc.dataclass(frozen=True)
class Settings:
    """How a network was trained."""

    epochs: int
    lr: float
    weight_decay: float
    sgd: bool
    bf16: bool
    clip: float


SETTINGS = {
    "fashion_cnn": Settings(epochs=7, lr=0.1, weight_decay=5e-4, sgd=True, bf16=True, clip=math.inf),
    "fashion_vit": Settings(epochs=8, lr=2e-3, weight_decay=0.05, sgd=False, bf16=False, clip=1.0),
}


def load(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 [N, 1, 28, 28] and labels int64 [N]."""
    images, labels = read(folder, part)
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2), torch.from_numpy(labels.copy()).long()


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Half of the images mirrored, each shifted by up to 2 pixels."""
    count, steps = len(images), torch.arange(SIDE)
    mirrored = torch.rand(count) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = functional.pad(images, (SHIFT,) * 4)
    tops, lefts = torch.randint(0, 2 * SHIFT + 1, (count,)), torch.randint(0, 2 * SHIFT + 1, (count,))
    rows, columns = (tops[:, None] + steps)[:, :, None], (lefts[:, None] + steps)[:, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


def normalised(images: torch.Tensor) -> torch.Tensor:
    """float32 of mean 0 and standard deviation 1 over the training images."""
    return (images.float() / 255 - MEAN) / STD


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Nesterov SGD or AdamW; norms and biases are not decayed."""
    params = list(model.parameters())
    groups = [
        {"params": [param for param in params if param.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [param for param in params if param.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.sgd:
        return torch.optim.SGD(groups, settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, settings.lr)


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose class is told."""
    model.eval()
    with torch.no_grad():
        parts = zip(images.split(500), labels.split(500), strict=True)
        return sum(int((model(normalised(part)).argmax(1) == right).sum()) for part, right in parts) / len(labels)


def train(name: str, out: Path, folder: Path) -> None:
    """Train a network and write its weights after each epoch."""
    torch.manual_seed(SEED)
    images, labels = load(folder, "train")
    test = load(folder, "t10k")
    settings, model = SETTINGS[name], build(f"edakari:{name}")
    if settings.bf16:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, settings)
    per_epoch, step = len(images) // BATCH, 0
    total = per_epoch * settings.epochs
    warm = int(WARMUP * total)
    for epoch in range(settings.epochs):
        model.train()
        started, order, losses = time.time(), torch.randperm(len(images)), 0.0
        for chosen in order[: per_epoch * BATCH].split(BATCH):
            share = (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (total - warm))
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * share
            batch = normalised(augmented(images[chosen]))
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                loss = functional.cross_entropy(model(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            if math.isfinite(settings.clip):
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            step, losses = step + 1, losses + loss.item()
        top1, seconds = accuracy(model, *test), time.time() - started
        line = f"{name} epoch {epoch + 1} loss {losses / per_epoch:.4f} test {top1:.4f} {seconds:.0f} s\n"
        sys.stderr.write(line)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, out)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else SOURCE)
