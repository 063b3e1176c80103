"""What feature discrimination is for: filters of low entropy are worth more than those of high entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.core.plan import KeepChannels, Plan
from edakari.criteria import FeatureDiscrimination, Listening
from edakari.graph import trace
from edakari.surgery import apply
from edakari.tasks import DataSettings, task_from_settings


class Three(nn.Sequential):
    """Three stages, a few thousand weights."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 24), (24, 32)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def trained(seed: int) -> tuple[nn.Module, float]:
    torch.manual_seed(seed)
    task = task_from_settings(DataSettings(search_size=2000, limit=6000, seed=seed, augment="none"))
    model = Three()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batches = task.batches("train")
    for epoch in range(3):
        batches.set_epoch(epoch)
        for images, labels in batches:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    model.eval()
    graph = trace(model, task.example())
    criterion = FeatureDiscrimination(listening=Listening(top=0.05))
    score = criterion.score(model, graph, task.batches("search"), task)["3"]
    order = score.argsort(descending=True).tolist()

    def accuracy(kept: list[int]) -> float:
        plan = Plan((KeepChannels("3", tuple(sorted(kept))),), graph.fingerprint, graph.inputs)
        return float(task.evaluate(apply(plan, model))["top1"])

    return model, accuracy(order[:12]) - accuracy(order[12:])


@pytest.mark.slow
def test_in_the_middle_discriminative_filters_are_worth_more_than_the_others() -> None:
    differences = [trained(seed)[1] for seed in range(5)]
    assert np.mean(differences) > 0, differences
