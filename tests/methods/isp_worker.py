"""One process of a pruning by ISP: each has its own half of every training batch; writes its plan and its explainer."""

import dataclasses as dc
import os

from edakari.methods.isp import InterpretationSteeredPruning
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import FitSettings, fitter

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@dc.dataclass(frozen=True)
class Shared(ToyTask):
    def batches(self, split):
        batches = super().batches(split)
        return [(x[RANK::WORLD], y[RANK::WORLD]) for x, y in batches] if split == "train" else batches


def main(folder):
    fit = fitter(Shared(), FitSettings(device="cpu", progress=False))
    job = dc.replace(toy_job(toy_cnn()), task=Shared(), fit=fit, artifacts=folder / f"kept-{RANK}")
    method = InterpretationSteeredPruning(predictor_epochs=2, explainer_epochs=2, gate_epochs=8, gate_lr=0.2)
    (folder / f"plan-{RANK}.json").write_text(method.prune(job).plan.to_json())
