"""What soft masks do in a training of some minutes: revivals, and how the decay of masked weights quiets them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from edakari.core.budget import Budget
from edakari.core.method import Job
from edakari.cost import bind, dense
from edakari.graph import trace
from edakari.methods.smcp import SoftMaskedPruning
from edakari.tasks import DataSettings, task_from_settings
from edakari.train import FitSettings, fitter

DATA = DataSettings(source="embedded:fashion", image_size=14, augment="none", batch_size=100, max_images=1500)
METHOD = SoftMaskedPruning(
    epochs=40,
    warmup_epochs=4,
    ramp_epochs=16,
    freeze_epochs=16,
    interval=15,
    lr=0.05,
    momentum=0.9,
    weight_decay=5e-4,
    norm_scale="none",
)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def run(**settings: Any) -> tuple[float, list[float], float]:
    """Accuracy, revivals up to each epoch in which masks were chosen, and cost as a share of the budget."""
    model, task = network(), task_from_settings(DATA)
    graph = trace(model, task.example())
    budget = Budget.parse("macs<=20%").absolute(dense(graph))
    regrown: list[float] = []

    def log(stage: str, figures: Mapping[str, float]) -> None:
        regrown.append(figures["regrown"])

    fit = fitter(task, FitSettings(device="cpu", progress=False))
    outcome = dc.replace(METHOD, **settings).prune(Job(model, graph, graph.groups, task, budget, fit, log=log))
    used = 1 + bind(budget, graph).excess(outcome.plan.sizes())
    return task.evaluate(outcome.model)["top1"], regrown, used


@pytest.mark.slow
def test_soft_masks_revive_and_quiet_down_as_masked_weights_decay() -> None:
    hard_accuracy, hard_regrown, hard_used = run(masks="hard")
    loose_accuracy, loose_regrown, loose_used = run(masked_decay=2e-4)
    firm_accuracy, firm_regrown, firm_used = run(masked_decay=0.5)
    assert all(0.95 < used <= 1 for used in (hard_used, loose_used, firm_used))
    assert hard_regrown[-1] == 0
    assert loose_regrown[-1] > firm_regrown[-1] > 0
    late = [regrown[-1] - regrown[len(regrown) // 2] for regrown in (loose_regrown, firm_regrown)]
    assert late[1] < late[0] / 3
    assert hard_accuracy > 0.7
    assert firm_accuracy > max(0.7, loose_accuracy)
