"""Prune the network of a LightningModule, and train on with your own Trainer: `python examples/lightning_module.py`.

Twice, each time to half the multiply-accumulates: prune by Taylor scores, then fine-tune; and prune while the module
trains (SMCP). Needs `pip install "edakari[lightning]"`. Data and trained network come with edakari, in place of yours.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import edakari as ek
from edakari.integrations.lightning import HookCallback
from edakari.tasks.sources import embedded


def loss_of(network: nn.Module, batch: Any) -> torch.Tensor:
    """The loss of the module's training, by which Taylor scores too."""
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


class Classifier(lightning.LightningModule):
    """A module as you have it; nothing in it knows of edakari."""

    def __init__(self, network: nn.Module, lr: float = 0.02) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """The loss of a batch."""
        return loss_of(self.network, batch)

    def validation_step(self, batch: Any, index: int) -> None:
        """Log the accuracy."""
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        """SGD, with one cycle of the learning rate."""
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=5e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def loader(split: str, count: int | None) -> DataLoader[Any]:
    """Fashion-MNIST, normalised as in the training of the network."""
    data = embedded("fashion", split)
    images = torch.from_numpy(data.images[:count]).permute(0, 3, 1, 2) / 255
    labels = torch.from_numpy(data.labels[:count])
    return DataLoader(TensorDataset((images - 0.286) / 0.353, labels), 64, shuffle=split == "train")


def trainer(epochs: int, *callbacks: lightning.Callback) -> lightning.Trainer:
    """Your trainer, as you always make it."""
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(max_epochs=epochs, callbacks=[*callbacks], enable_checkpointing=False, **quiet)


def main(*, quick: bool = False) -> dict[str, float]:
    """Prune in both ways; the accuracies."""
    train, val = loader("train", 128 if quick else 5000), loader("test", 128 if quick else None)

    def accuracy(network: nn.Module) -> float:
        return float(trainer(1).validate(Classifier(network), val, verbose=False)[0]["accuracy"])

    dense = ek.build("edakari:fashion_cnn", weights="pretrained")
    task = ek.Task.of(next(iter(val))[0][:1], train=train, loss=loss_of)
    small = ek.prune(dense, task, "macs<=50%", "taylor").model
    found = {"dense": accuracy(dense), "pruned": accuracy(small)}
    small.train()  # Lightning trains in the mode that it finds, and `prune` returns networks in evaluation mode
    trainer(3).fit(Classifier(small), train, val)
    found["pruned and fine-tuned"] = accuracy(small)

    def fit(model: nn.Module, objective: Any, schedule: Any, *, hooks: Any = (), **others: Any) -> None:
        trainer(schedule.epochs, HookCallback(model, hooks)).fit(Classifier(model), train, val)

    phases = {"epochs": 3, "warmup_epochs": 0, "ramp_epochs": 2, "freeze_epochs": 1}
    smcp = {"name": "smcp", **phases, "interval": max(1, len(train) // 8)}
    masked = ek.prune(dense, task, "macs<=50%", smcp, fit=fit)
    found["pruned in training"] = accuracy(masked.model)
    for name, value in found.items():
        print(f"accuracy {value:.3f}  {name}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images, to see that it runs")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main(quick=parser.parse_args().quick)
