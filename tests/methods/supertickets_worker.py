"""One process of SuperTickets: each has its own half of every batch; writes its plan and its weights."""

from __future__ import annotations

import dataclasses as dc
import os
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file

from edakari.core.protocols import Batch, Schedule, Split
from edakari.methods.supertickets import SuperTickets
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import FitSettings, fitter


@dc.dataclass(frozen=True)
class Shared(ToyTask):
    def batches(self, split: Split) -> Iterable[Batch]:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return [(images[rank::world], labels[rank::world]) for images, labels in super().batches(split)]


def main(folder: Path) -> None:
    fit = fitter(Shared(), FitSettings(device="cpu", progress=False))
    job = dc.replace(toy_job(toy_cnn(), "macs<=50%, sparsity>=60%"), task=Shared(), fit=fit)
    search = {"rho": 0.1, "interval": 1, "warmup_epochs": 0.0, "min_saving": 1.0, "decay": 0.9, "eps": 0.1}
    masks = {"interval": 1, "step": 0.2, "reactivation": "persist"}
    outcome = SuperTickets(search=search, masks=masks, schedule=Schedule(epochs=4, lr=0.05)).prune(job)
    rank = os.environ["RANK"]
    save_file(outcome.model.state_dict(), folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(outcome.plan.to_json())
