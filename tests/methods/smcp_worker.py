"""One process of a pruning by SMCP: each has its own half of every batch; writes its plan and its weights."""

import dataclasses as dc
import os

from safetensors.torch import save_file

from edakari.methods.smcp import SoftMaskedPruning
from edakari.testing import ToyTask, toy_cnn, toy_job, toy_vit
from edakari.train import FitSettings, fitter

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@dc.dataclass(frozen=True)
class Shared(ToyTask):
    def batches(self, split):
        return [(images[RANK::WORLD], labels[RANK::WORLD]) for images, labels in super().batches(split)]


def main(folder, *names):
    for name in names:
        prune(folder, name)


def prune(folder, name):
    network = {"cnn": toy_cnn, "vit": toy_vit}[name]()
    fit = fitter(Shared(), FitSettings(device="cpu", progress=False))
    job = dc.replace(toy_job(network), task=Shared(), fit=fit)
    method = SoftMaskedPruning(
        epochs=4, warmup_epochs=1, ramp_epochs=2, freeze_epochs=1, interval=3, lr=0.02, precision="bf16"
    )
    outcome = dc.replace(method, precision="fp32" if name == "vit" else "bf16").prune(job)
    save_file(outcome.model.state_dict(), folder / f"{name}-{WORLD}-{RANK}.safetensors")
    (folder / f"{name}-{WORLD}-{RANK}.json").write_text(outcome.plan.to_json())
