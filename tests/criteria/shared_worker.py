"""One process of several that score the same batches: writes what each criterion found, and how much it had to run."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

from edakari.core.budget import Budget
from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.criteria import CRITERIA, FeatureDiscrimination, ResponseSettings, Taylor
from edakari.graph import trace
from edakari.methods.isp import InterpretationSteeredPruning
from edakari.methods.redundancy.paired import answers_of, change_between
from edakari.methods.score import ScorePruning
from edakari.methods.sensitivity import Sensitivity
from edakari.methods.tickets.scores import ScoreName, ScoreSource, score_weights
from edakari.methods.tokens.training import calibrate
from edakari.pipeline import PruneSettings, run_given
from edakari.surgery.tokens import selections
from edakari.tasks.loaders import ArrayBatches
from edakari.tasks.order import Order
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import FitSettings, fitter
from tests.methods.token_jobs import trainer
from tests.train.problem import batches, network

OWN = {"rfc": FeatureDiscrimination(responses=ResponseSettings(top=11)), "sensitivity": Sensitivity(ranking=Taylor())}


@dc.dataclass(frozen=True)
class Counting(ToyTask):
    """Counts the images that the network is run on."""

    seen: list[int] = dc.field(default_factory=list)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        self.seen.append(len(batch[0]))
        return super().outputs(model, batch)


def scored(batch: int) -> dict[str, torch.Tensor]:
    """Scores of a network by every criterion, and the images that this process ran."""
    found: dict[str, torch.Tensor] = {}
    for name in CRITERIA:
        task, job = Counting(batch=batch), toy_job(toy_cnn())
        criterion = OWN.get(name) or CRITERIA.named(name)()
        scores = criterion.score(job.model, job.graph, task.batches("calibration"), task)
        found |= {f"{name} {batch} {group}": score for group, score in scores.items()}
        found[f"images {name} {batch}"] = torch.tensor(sum(task.seen))
    return found


def scored_weights() -> dict[str, torch.Tensor]:
    """Scores of single weights that need data."""
    found: dict[str, torch.Tensor] = {}
    for score in ("snip", "grasp"):
        task = Counting(batch=20)
        source = ScoreSource(task, batches=3)
        weights = [name for name, value in toy_cnn().named_parameters() if value.ndim > 1]
        scores = score_weights(toy_cnn(), weights, cast(ScoreName, score), source)
        found |= {f"{score} {name}": each for name, each in scores.items()}
        found[f"images {score} 20"] = torch.tensor(sum(task.seen))
    return found


def changed() -> dict[str, torch.Tensor]:
    """Change of the predictions between two networks."""
    found = {}
    for batch in (20, 200):
        task = ToyTask(batch=batch)
        answers = [answers_of(toy_cnn(seed), task.batches("calibration"), task, 1000) for seed in (0, 1)]
        found[f"change {batch}"] = torch.tensor(dc.astuple(change_between(answers[0], answers[1])))
    return found


def gated(folder: Path) -> dict[str, torch.Tensor]:
    """Logits of gates that were trained with a given explainer; batches of 25 images do not divide by 2."""
    from safetensors.torch import load_file

    task, artifacts = ToyTask(batch=25), folder / f"gates-{Processes.here().world}-{Processes.here().rank}"
    job = dc.replace(
        toy_job(toy_cnn()), task=task, fit=fitter(task, FitSettings(device="cpu", progress=False)), artifacts=artifacts
    )
    method = InterpretationSteeredPruning(explainer=str(folder / "explainer"), gate_epochs=3, gate_lr=0.1)
    method.prune(job)
    (file,) = artifacts.glob("gate*.safetensors")
    return {f"gates {name}": value for name, value in load_file(file).items()}


def loaded() -> dict[str, torch.Tensor]:
    """Scores on batches of a loader, of which each process loads its own only."""
    net, counts, images = network(norm=True).eval(), list[int](), ArrayBatches._images
    data = ArrayBatches(batches(64).source, Order(64, 10, shared=True), batches().pixels)

    def counted(self: ArrayBatches, indices: Any) -> torch.Tensor:
        counts.append(len(indices))
        return images(self, indices)

    criterion = FeatureDiscrimination(responses=ResponseSettings(top=5, images=45))
    with mock.patch.object(ArrayBatches, "_images", counted):
        scores = criterion.score(net, trace(net, torch.zeros(1, 1, 6, 6)), data, None)
    return {**{f"loader {name}": score for name, score in scores.items()}, "images loaded": torch.tensor(sum(counts))}


def thresholds() -> dict[str, torch.Tensor]:
    """Thresholds of token selectors."""
    task, model = ToyTask(batch=20), trainer().student.model
    caps = calibrate(model, task.outputs, list(task.batches("calibration")))
    found = {f"threshold {block}": each.get_buffer("threshold") for block, each in selections(model).items()}
    return {**found, **{f"cap {block}": torch.tensor(cap) for block, cap in caps.items()}}


def recovered() -> dict[str, torch.Tensor]:
    """Weights of a cut network after its layers were refit and its statistics recomputed; one batch only."""
    settings = PruneSettings(
        method=ScorePruning(), budget=Budget.parse("macs<=60%"), recalibrate=3, reconstruct=True, device="cpu"
    )
    model = run_given(toy_cnn(), ToyTask(batch=90), settings).model
    return {f"weight {name}": value for name, value in model.state_dict().items()}


def main(folder: Path) -> None:
    """Write all figures."""
    if not dist.is_initialized():
        from edakari.pipeline import processes

        processes.started(cpu=True)
    here = Processes.here()
    found: dict[str, Any] = {
        **scored(20),
        **scored(200),
        **scored_weights(),
        **changed(),
        **gated(folder),
        **loaded(),
        **thresholds(),
        **recovered(),
    }
    torch.save(found, folder / f"found-{here.world}-{here.rank}.pt")
