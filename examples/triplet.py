"""Prunes an embedding that was trained by a triplet loss, on Fashion-MNIST, which comes with edakari.

    python examples/triplet.py

The task is made of plain functions: batches of a few images of each of some classes, torch's own triplet loss, and
recall@1. Training is a loop as anybody writes one; the fine-tuning after the cut is that of `edakari.prune`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import edakari as ek
from edakari.tasks.sources import embedded

CLASSES, EACH = 8, 8
"""Classes in a batch, and images of each."""


class Batches:
    """Batches of images of some classes, drawn again in each epoch; each class has as many images."""

    def __init__(self, split: str, count: int) -> None:
        data = embedded("fashion", split)
        self.images = torch.from_numpy(data.images[:count]).permute(0, 3, 1, 2).float().div(255).sub(0.286).div(0.353)
        self.labels = torch.from_numpy(data.labels[:count])
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other batches."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels) // (CLASSES * EACH)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(self.epoch)
        for _ in range(len(self)):
            drawn = [
                rng.choice(np.flatnonzero(self.labels == label), EACH)
                for label in rng.choice(10, CLASSES, replace=False)
            ]
            indices = torch.from_numpy(np.concatenate(drawn))
            yield self.images[indices], self.labels[indices]


def network() -> nn.Module:
    """A small network that gives 32 numbers."""
    widths = [1, 32, 64, 96]
    blocks = [
        nn.Sequential(nn.Conv2d(one, other, 3, 2, 1, bias=False), nn.BatchNorm2d(other), nn.ReLU())
        for one, other in itertools.pairwise(widths)
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 32))


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Torch's triplet loss of each image, its farthest of the same class and its nearest of another."""
    images, labels = batch
    vectors = functional.normalize(model(images), dim=1)
    distances = torch.cdist(vectors.detach(), vectors.detach())
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, -1).argmax(1)
    negative = distances.masked_fill(same, 9).argmin(1)
    return functional.triplet_margin_loss(vectors, vectors[positive], vectors[negative], margin=0.2)


def evaluate(model: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
    """Fraction of the images whose nearest one is of their class."""
    pairs = [(functional.normalize(model(images), dim=1), labels) for images, labels in batches]
    vectors, labels = torch.cat([one for one, _ in pairs]), torch.cat([other for _, other in pairs])
    nearest = torch.cdist(vectors, vectors).fill_diagonal_(9).argmin(1)
    return {"recall_at_1": float((labels[nearest] == labels).float().mean())}


def main(images: int = 6000, epochs: int = 8) -> None:
    """Train an embedding, prune it to half of its multiply-accumulates, and compare."""
    torch.manual_seed(0)
    train, test = Batches("train", images), Batches("test", images // 5)
    val = list(zip(test.images.split(256), test.labels.split(256), strict=True))
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        train.set_epoch(epoch)
        for batch in train:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    task = ek.Task.of(val[0][0][:1], train=train, val=val, loss=loss, evaluate=evaluate)
    tuning = ek.Schedule(epochs=epochs, lr=1e-3, optimizer="adamw")
    result = ek.prune(model, task, "macs<=50%", method="taylor", finetune=tuning)
    dense, cut, tuned = (each["metrics"]["recall_at_1"] for each in result.report["networks"])
    print(f"recall@1: unpruned {dense:.3f}, half of the MACs {cut:.3f}, fine-tuned {tuned:.3f}")


if __name__ == "__main__":
    main()
