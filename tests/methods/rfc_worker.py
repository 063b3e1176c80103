"""One process of a pruning by DLRFC; writes scores, its plans and its weights."""

import dataclasses as dc
import json
import os

import torch
from safetensors.torch import save_file

from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.methods.redundancy.trial_settings import TrialSettings
from edakari.methods.rfc import DistinguishingLayerPruning
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import FitSettings, fitter

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@dc.dataclass(frozen=True)
class Shared(ToyTask):
    """Batches of training are shared among processes; the others, three of them, are given to all."""

    batch: int = 24

    def batches(self, split):
        whole = super().batches(split)
        return [(images[RANK::WORLD], labels[RANK::WORLD]) for images, labels in whole] if split == "train" else whole


def scored():
    job, task = toy_job(toy_cnn()), Shared()
    criterion = FeatureDiscrimination(responses=ResponseSettings(top=11))
    found = criterion.score(job.model, job.graph, task.batches("calibration"), task)
    return {name: score.tolist() for name, score in found.items()}


def pruned(folder, epochs):
    fit = fitter(Shared(), FitSettings(device="cpu", progress=False))
    job = dc.replace(toy_job(toy_cnn()), task=Shared(), fit=fit, folder=folder)
    return DistinguishingLayerPruning(
        criterion=FeatureDiscrimination(responses=ResponseSettings(top=0.25)),
        trial=TrialSettings(recovery_epochs=epochs, recovery_lr=0.01),
    ).prune(job)


def main(folder):
    torch.distributed.init_process_group("gloo")
    (folder / f"scores-{RANK}.json").write_text(json.dumps(scored()))
    (folder / f"cut-{RANK}.json").write_text(pruned(folder / "cut", 0).plan.to_json())
    outcome = pruned(folder / "trained", 1)
    (folder / f"trained-{RANK}.json").write_text(outcome.plan.to_json())
    save_file(outcome.model.state_dict(), folder / f"trained-{RANK}.safetensors")
