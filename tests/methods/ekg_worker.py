"""One process of a pruning by EKG: candidates and batches are shared out; writes its plan, its way and its bank."""

import dataclasses as dc
import json
import os
import sys
import time
from pathlib import Path

from accelerate import PartialState

from edakari.methods.ekg import EnsembleKnowledgePruning
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import FitSettings, bank_in, fitter

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def main(folder, batch):
    fit = fitter(ToyTask(), FitSettings(device="cpu", progress=False))
    log = []
    job = dc.replace(toy_job(toy_cnn()), fit=fit, log=lambda stage, figures: log.append([stage, dict(figures)]))
    start = time.perf_counter()
    outcome = EnsembleKnowledgePruning(warmup_images=8, search_images=8, search_batch=batch).prune(job)
    seconds = time.perf_counter() - start
    teachers = outcome.teachers
    bank = bank_in(folder / f"bank-{batch}-{WORLD}", ToyTask(images=600), {}, lambda: teachers(2))
    found = {"plan": outcome.plan.to_json(), "log": log, "bank": bank.logits.astype(float).sum((0, 2)).tolist()}
    (folder / f"{batch}-{WORLD}-{RANK}.json").write_text(json.dumps({**found, "seconds": seconds}))


if __name__ == "__main__":
    PartialState(cpu=True)
    for size in sys.argv[2:]:
        main(Path(sys.argv[1]), int(size))
    PartialState().destroy_process_group()
