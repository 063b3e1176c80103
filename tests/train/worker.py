"""One process of a training; writes its weights, its losses and its evaluation."""

import dataclasses as dc
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from edakari.core.processes import Processes
from edakari.tasks import Classification, DataSettings
from edakari.tasks.image_data import ImageData
from edakari.tasks.pixels import Pixels
from edakari.train import FitSettings, fit
from tests.train.problem import SCHEDULE, batches, network, objective


def main(folder, *modes):
    for mode in modes:
        train(folder, mode)


def train(folder, mode):
    model, gate = network(norm=mode == "norm"), torch.ones(1, requires_grad=True)
    data = batches()
    data.pixels = dc.replace(data.pixels, pad=0, flip=False)
    splits = dict.fromkeys(("train", "calibration", "val"), data.source)
    task = Classification(ImageData(DataSettings(batch_size=10), splits, Pixels((6, 6), 1, (0.5,), (0.25,))))

    def gated(network, batch):
        terms = objective(network, batch)
        return {**terms, "gate": (gate - batch[0].mean()).square().sum()}

    settings = FitSettings(folder=Path(folder) / mode / str(Processes.here().world), device="cpu")
    schedule = dc.replace(SCHEDULE, precision="bf16" if mode == "norm" else "fp32")
    params = [*model.parameters(), gate] if mode == "plain" else None
    figures = {}
    history = fit(
        model,
        gated if mode == "plain" else objective,
        data,
        schedule,
        params=params,
        settings=settings,
        evaluate=lambda network: task.evaluate(network),
    )
    for number, epoch in enumerate(history.epochs):
        # The gate's own term is not linear in the batch, so that its mean differs from the whole batch's.
        figures |= {
            f"{number}.{name}": torch.tensor(value) for name, value in epoch.items() if name not in ("gate", "loss")
        }
    assert "forward" not in model.__dict__
    assert isinstance(model[0], nn.Conv2d)
    here = Processes.here()
    rank, world = here.rank, here.world
    save_file({**model.state_dict(), **figures}, Path(folder) / f"{mode}-{world}-{rank}.safetensors")
