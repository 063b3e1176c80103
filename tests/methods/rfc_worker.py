"""One process of a pruning by DLRFC; writes its plan and its weights."""

import dataclasses as dc
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from edakari.methods.rfc import DistinguishingLayerPruning
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import FitSettings, fitter

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@dc.dataclass(frozen=True)
class Shared(ToyTask):
    """Batches of training are shared among processes; the others are given to all of them."""

    def batches(self, split):
        whole = super().batches(split)
        return [(images[RANK::WORLD], labels[RANK::WORLD]) for images, labels in whole] if split == "train" else whole


def main(folder, name, epochs):
    task = Shared(batch=24)
    fit = fitter(task, FitSettings(device="cpu", progress=False))
    if WORLD > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    job = dc.replace(toy_job(toy_cnn()), task=task, fit=fit, folder=folder / name)
    outcome = DistinguishingLayerPruning(top=0.25, recover_epochs=epochs, recover_lr=0.01).prune(job)
    save_file(outcome.model.state_dict(), folder / f"{name}-{WORLD}-{RANK}.safetensors")
    (folder / f"{name}-{WORLD}-{RANK}.json").write_text(outcome.plan.to_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]), "cut", 0)
    main(Path(sys.argv[1]), "trained", 1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
