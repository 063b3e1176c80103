"""What the search and the bank do in minutes: the searched network beats random ones, and the bank does no harm."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edakari.core.budget import Budget
from edakari.core.method import Job
from edakari.core.plan import Plan
from edakari.core.protocols import Objective, Schedule
from edakari.cost import bind, dense
from edakari.graph import trace
from edakari.methods.ekg import EnsembleKnowledgePruning
from edakari.solve import Uniform, keep_best
from edakari.surgery import apply
from edakari.tasks import DataSettings, task_from_settings
from edakari.train import BankTeaching, FitSettings, bank_in, fit, fitter, recalibrate_, task_objective

DATA = DataSettings(source="embedded:fashion", image_size=14, augment="light", pad=1, batch_size=100, max_images=3000)
SHORT = Schedule(epochs=2, lr=0.02)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 24, 2), (24, 32, 1), (32, 48, 2), (48, 48, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


@pytest.mark.slow
def test_the_searched_network_beats_random_ones_and_the_bank_does_no_harm(tmp_path) -> None:
    task, model = task_from_settings(DATA), network()
    quiet = FitSettings(device="cpu", progress=False)
    fit(model, task_objective(task), task.batches("train"), Schedule(epochs=8, lr=0.1), settings=quiet)
    graph = trace(model.eval(), task.example())
    budget = Budget.parse("macs<=50%").absolute(dense(graph))
    job = Job(copy.deepcopy(model), graph, graph.groups, task, budget, fitter(task, quiet))
    outcome = EnsembleKnowledgePruning(warmup_images=64, search_images=32).prune(job)

    def tuned(start: nn.Module, objective: Objective, views: int, seed: int = 0) -> dict[str, float]:
        student = copy.deepcopy(start)
        settings = FitSettings(device="cpu", progress=False, seed=seed)
        fit(student, objective, task.with_indices(views), SHORT, settings=settings)
        return dict(task.evaluate(student))

    before, after = [], []
    warmup_batches = list(task.batches("calibration"))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scores = {g.name: torch.from_numpy(rng.random(g.size)) * float(rng.uniform(0.2, 2)) for g in graph.groups}
        values = {
            name: np.concatenate([[0.0], np.sort(score.numpy())[::-1].cumsum()]) for name, score in scores.items()
        }
        sizes = Uniform().allocate(graph.groups, values, bind(budget, graph))
        other = apply(model, Plan(keep_best(scores, sizes), graph.fingerprint, graph.inputs))
        recalibrate_(other, task.outputs, warmup_batches)
        before.append(task.evaluate(other)["loss"])
        after.append(tuned(other, task_objective(task), 1)["top1"])
    assert task.evaluate(outcome.model)["loss"] < min(before)
    assert tuned(outcome.model, task_objective(task), 1)["top1"] >= np.median(after)

    teachers = outcome.teachers
    assert teachers is not None
    bank = bank_in(tmp_path / "bank", task, {}, lambda: teachers(5))
    for seed in range(2):
        taught = BankTeaching(task, bank)
        with_bank = tuned(outcome.model, taught, 2, seed)
        without = tuned(outcome.model, task_objective(task), 2, seed)
        assert with_bank["loss"] <= without["loss"] + 0.01
        assert 1 <= taught.used <= 5
