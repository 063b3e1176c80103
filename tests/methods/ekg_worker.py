"""One process of a pruning by EKG: candidates and batches are shared out; writes its plan, its way and its bank."""

import dataclasses as dc
import json
import os

from accelerate import PartialState

from edakari.methods.ekg import EnsembleKnowledgePruning
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import FitSettings, bank_in, fitter

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def main(folder, *batches):
    if WORLD > 1:
        PartialState(cpu=True)
    for batch in batches:
        prune(folder, batch)


def prune(folder, batch):
    fit = fitter(ToyTask(), FitSettings(device="cpu", progress=False))
    log = []
    job = dc.replace(toy_job(toy_cnn()), fit=fit, log=lambda stage, figures: log.append([stage, dict(figures)]))
    outcome = EnsembleKnowledgePruning(warmup_images=8, search_images=8, search_batch=batch).prune(job)
    teachers = outcome.teachers
    bank = bank_in(folder / f"bank-{batch}-{WORLD}", ToyTask(images=600), {}, lambda: teachers(2))
    found = {"plan": outcome.plan.to_json(), "log": log, "bank": bank.logits.astype(float).sum((0, 2)).tolist()}
    (folder / f"{batch}-{WORLD}-{RANK}.json").write_text(json.dumps(found))
