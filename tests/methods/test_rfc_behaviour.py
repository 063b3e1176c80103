"""What feature discrimination is for: filters of low entropy are worth more than those of high entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edakari.core.plan import KeepChannels, Plan
from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.graph import trace
from edakari.models import build
from edakari.surgery import apply
from edakari.tasks import DataSettings, task_from_settings


def advantages(images: int) -> dict[str, float]:
    """For each group but the first and the last, by how much the half of lower entropy beats the other half.

    The network is trained to the end: in one of a few epochs such halves differ by chance more than by entropy.

    Args:
        images: on which accuracies are measured.
    """
    task = task_from_settings(DataSettings(calibration_size=2000, max_images=6000, augment="none"))
    model = build("edakari:fashion_cnn", weights="pretrained").eval()
    graph = trace(model, task.example())
    scores = FeatureDiscrimination(responses=ResponseSettings(top=0.05)).score(
        model, graph, task.batches("calibration"), task
    )
    x, labels = (torch.cat(parts)[:images] for parts in zip(*task.batches("val"), strict=True))

    def accuracy(group: str, kept: list[int]) -> float:
        plan = Plan((KeepChannels(group, tuple(sorted(kept))),), graph.fingerprint, graph.inputs)
        with torch.no_grad():
            return float((apply(model, plan, graph)(x).argmax(1) == labels).double().mean())

    better = {}
    for name in [each.name for each in graph.groups][1:-1]:
        order, half = scores[name].argsort(descending=True).tolist(), len(scores[name]) // 2
        better[name] = accuracy(name, order[:half]) - accuracy(name, order[half:])
    assert len(better) >= 5
    return better


@pytest.mark.slow
def test_in_the_middle_discriminative_filters_are_worth_more_than_the_others() -> None:
    """On a quarter of the images, where the group whose halves are nearly equal may fall to either side."""
    better = sorted(advantages(500).values())
    assert better[0] > -0.02, better
    assert better[1] > 0.05, better
    assert np.mean(better) > 0.1, better


@pytest.mark.slow
def test_in_every_group_in_the_middle_discriminative_filters_are_worth_more() -> None:
    better = advantages(2000)
    assert min(better.values()) > 0, better
    assert np.mean(list(better.values())) > 0.1, better
