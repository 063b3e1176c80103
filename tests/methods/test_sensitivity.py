"""The sensitivity criterion: its scores add up to losses of cut networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edakari
from edakari.core.method import method_named
from edakari.core.plan import KeepChannels, Plan
from edakari.cost import bind
from edakari.criteria import Magnitude, Taylor
from edakari.errors import DataError, EdakariError, SettingsError
from edakari.methods.sensitivity import Sensitivity, slopes
from edakari.surgery import apply
from edakari.tasks.own import Task
from edakari.testing import ToyTask, check_criterion, toy_cnn, toy_job
from edakari.train import batch_statistics


def test_conformance() -> None:
    check_criterion(Sensitivity(fractions=(0.5,), max_batches=1))


def test_slopes_are_those_of_the_convex_curve_below_by_hand() -> None:
    found = slopes([2, 4, 6], [1.0, 3.0, 9.0], 8)
    assert found == pytest.approx([0.5, 0.5, 1, 1, 3, 3, 3, 3], rel=1e-5)
    assert (np.diff(found) > 0).all()  # the ranking decides between channels of one slope
    # the bump at 2 is above the line from 0 to 4; a loss that falls counts as one that stays
    assert slopes([2, 4], [3.0, 4.0], 4) == pytest.approx([1, 1, 1, 1], rel=1e-5)
    assert slopes([1, 2], [-1.0, 2.0], 3) == pytest.approx([0, 2, 2], rel=1e-5)
    assert slopes([], [], 1).tolist() == [0.0]
    assert (np.diff(slopes([2], [-1.0], 4)) > 0).all()


def test_scores_of_removed_channels_add_up_to_the_rise_of_the_loss() -> None:
    model, task = toy_cnn(), ToyTask()
    graph = edakari.trace(model, task.example())
    batches = list(task.batches("calibration"))[:2]

    def loss(network: nn.Module) -> float:
        with batch_statistics(network), torch.no_grad():
            return float(np.mean([float(nn.functional.cross_entropy(network(x), y)) for x, y in batches]))

    ranked = Magnitude().score(model, graph)
    scores = Sensitivity(fractions=(0.5,), max_batches=2).score(model, graph, task.batches("calibration"), task)
    rises = []
    for group in graph.groups:
        order = ranked[group.name].argsort(stable=True)
        assert torch.equal(scores[group.name].argsort(stable=True), order)
        half = round(group.size / 2)
        plan = Plan((KeepChannels(group.name, tuple(sorted(order[half:].tolist()))),), graph.fingerprint, graph.inputs)
        rises.append(max(0.0, loss(apply(model, plan)) - loss(model)))
        removed = float(scores[group.name].sort().values[:half].sum())
        assert removed == pytest.approx(rises[-1], rel=1e-4, abs=1e-6)
    assert max(rises) > 2 * min(rises)


@pytest.mark.parametrize("allocator", ["threshold", "knapsack"])
def test_a_budget_is_met_by_every_allocator(allocator: str) -> None:
    method = method_named("sensitivity")(
        allocator=allocator, criterion={"max_batches": 1, "fractions": [0.5], "ranking": "taylor"}
    )  # type: ignore[call-arg]
    job = toy_job(toy_cnn())
    assert isinstance(method.criterion.ranking, Taylor)  # type: ignore[attr-defined]
    assert -0.03 < bind(job.budget, job.graph).excess(method.prune(job).plan.sizes()) <= 0


def test_what_cannot_be_measured_is_refused() -> None:
    model, task = toy_cnn(), ToyTask()
    graph = edakari.trace(model, task.example())
    with pytest.raises(EdakariError, match="needs a task"):
        Sensitivity().score(model, graph, task.batches("calibration"), None)
    with pytest.raises(DataError, match="no batch"):
        Sensitivity().score(model, graph, [], task)
    for fractions in ((), (0.5, 0.25), (0.5, 0.5)):
        with pytest.raises(SettingsError, match="fractions must increase"):
            Sensitivity(fractions=fractions)
    own: Any = Task.of(task.example(), train=list(task.batches("train")), teacher="dense", features=["stem"])
    with pytest.raises(DataError, match="compares features"):
        Sensitivity().score(model, graph, own.batches("train"), own)
    with pytest.raises(DataError, match="compares features"):
        Sensitivity().check_task(model, own, next(iter(own.batches("train"))))
