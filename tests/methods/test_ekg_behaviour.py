"""What the search and the bank do in minutes: the searched network beats random ones, and the bank does no harm."""

from __future__ import annotations

import copy
import dataclasses as dc
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edakari.core.budget import Budget, Limits
from edakari.core.method import Job
from edakari.core.plan import Plan
from edakari.core.protocols import Batch, Objective, Schedule
from edakari.cost import bind, dense
from edakari.graph import trace
from edakari.methods.ekg import EnsembleKnowledgePruning, balanced_parts
from edakari.methods.knowledge.ensemble import EnsembleSearch, SearchSettings, SearchStep
from edakari.methods.masking.masks import Masks
from edakari.solve import Uniform, keep_best
from edakari.solve.greedy import Candidate
from edakari.surgery import apply
from edakari.tasks import DataSettings, task_from_settings
from edakari.train import BankTeaching, FitSettings, bank_in, fit, fitter, recalibrate_, task_objective

DATA = DataSettings(source="embedded:fashion", image_size=14, augment="light", pad=1, batch_size=100, max_images=3000)
SHORT = Schedule(epochs=2, lr=0.02)
QUIET = FitSettings(device="cpu", progress=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 24, 2), (24, 32, 1), (32, 48, 2), (48, 48, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


@functools.cache
def trained() -> tuple[Any, nn.Module]:
    """The task, and a network that was trained for it."""
    task, model = task_from_settings(DATA), network()
    fit(model, task_objective(task), task.batches("train"), Schedule(epochs=8, lr=0.1), settings=QUIET)
    return task, model.eval()


def job_of(budget: str = "macs<=50%") -> Job:
    task, model = trained()
    graph = trace(model, task.example())
    return Job(
        copy.deepcopy(model),
        graph,
        graph.groups,
        task,
        Budget.parse(budget).absolute(dense(graph)),
        fitter(task, QUIET),
    )


def tuned(start: nn.Module, objective: Objective, views: int, seed: int = 0) -> dict[str, float]:
    """Figures of a copy after a short training."""
    task, student = trained()[0], copy.deepcopy(start)
    settings = dc.replace(QUIET, seed=seed)
    fit(student, objective, task.with_indices(views), SHORT, settings=settings)
    return dict(task.evaluate(student))


def of_equal_cost(search: EnsembleSearch, limits: Limits, count: int) -> list[SearchStep]:
    """Sub-networks of widths drawn at random, whose best channels are left and whose costs are equal to 2 %."""
    rng, groups = np.random.default_rng(0), search.masks.groups
    with search.working():
        scores = search.scores(search.start.mask)
    found = []
    while len(found) < count:
        drawn = {group.name: rng.uniform(0.15, 1.0) for group in groups}
        factor = 1.0
        while True:
            sizes = {g.name: max(1, min(g.size, round(g.size * drawn[g.name] * factor))) for g in groups}
            if limits.excess(sizes) <= 0:
                break
            factor *= 0.99
        if limits.excess(sizes) < -0.02:
            continue
        mask = search.start.mask
        for group in groups:
            mask = search.narrowed(mask, scores, Candidate(group.name, sizes[group.name], True))
        found.append(SearchStep(mask, 0.0))
    return found


def ranks(values: Sequence[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


@pytest.mark.slow
def test_the_reward_ranks_networks_as_their_accuracy_after_training_does() -> None:
    """B1 of the specification: a rank correlation above 0.3 over networks of equal cost, mean of two seeds."""
    job = job_of()
    task, limits = trained()[0], bind(job.budget, job.graph)
    warmup, searched = balanced_parts(task.labels("train"), 64, 32, 256, 0)
    masks = Masks(job.model, job.graph, job.groups, "hard")
    search = EnsembleSearch(job, masks, SearchSettings(), list(task.batches_at("train", searched)))
    networks = of_equal_cost(search, limits, 12)
    with search.working():
        parts = [torch.split(search.outputs(each.mask), search.counts) for each in networks]
        rewards = [-float(sum(search.terms(z, index).sum() for index, z in enumerate(part))) for part in parts]
    after: list[list[float]] = []
    for each in networks:
        small = apply(job.model, search.plan(each))
        recalibrate_(small, task.outputs, list(task.batches_at("train", warmup)))
        after.append([tuned(small, task_objective(task), 1, seed)["top1"] for seed in range(2)])
    found = [float(np.corrcoef(ranks(rewards), ranks(top1))[0, 1]) for top1 in zip(*after, strict=True)]
    assert np.mean(found) > 0.3, found


class Counting:
    """The objective of a bank, and how many teachers it chose at each step."""

    def __init__(self, taught: BankTeaching) -> None:
        self.taught = taught
        self.used: list[float] = []

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        before = self.taught.used * self.taught.steps
        terms = self.taught(model, batch)
        self.used.append(self.taught.used * self.taught.steps - before)
        return terms


@pytest.mark.slow
def test_the_searched_network_beats_random_ones_and_the_bank_does_no_harm(tmp_path) -> None:
    (task, model), job = trained(), job_of()
    graph, budget = job.graph, job.budget
    outcome = EnsembleKnowledgePruning(warmup_images=64, search_images=32).prune(job)

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
        taught = Counting(BankTeaching(task, bank))
        with_bank = tuned(outcome.model, taught, 2, seed)
        without = tuned(outcome.model, task_objective(task), 2, seed)
        assert with_bank["loss"] <= without["loss"] + 0.01
        # all five teach at first; as the network learns, those that were cut far drop out
        assert np.mean(taught.used[:5]) > 4.5, taught.used
        assert np.mean(taught.used[-10:]) < np.mean(taught.used[:5]) - 0.5, taught.used
        assert min(taught.used) >= 1
