"""What feature discrimination is for: filters of low entropy are worth more than those of high entropy."""

from __future__ import annotations

import numpy as np

from edakari.core.plan import KeepChannels, Plan
from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.graph import trace
from edakari.models import build
from edakari.surgery import apply
from edakari.tasks import DataSettings, task_from_settings


def test_in_the_middle_discriminative_filters_are_worth_more_than_the_others() -> None:
    """The half of a group with the lower entropy beats the other one, in every group but the first and the last.

    The network is trained to the end: in one of a few epochs such halves differ by chance more than by entropy.
    """
    task = task_from_settings(DataSettings(calibration_size=2000, max_images=6000, augment="none"))
    model = build("edakari:fashion_cnn", weights="pretrained").eval()
    graph = trace(model, task.example())
    scores = FeatureDiscrimination(response_settings=ResponseSettings(top=0.05)).score(
        model, graph, task.batches("calibration"), task
    )

    def accuracy(group: str, kept: list[int]) -> float:
        plan = Plan((KeepChannels(group, tuple(sorted(kept))),), graph.fingerprint, graph.inputs)
        return float(task.evaluate(apply(model, plan))["top1"])

    better = {}
    for name in [each.name for each in graph.groups][1:-1]:
        order, half = scores[name].argsort(descending=True).tolist(), len(scores[name]) // 2
        better[name] = accuracy(name, order[:half]) - accuracy(name, order[half:])
    assert len(better) >= 5
    assert min(better.values()) > 0, better
    assert np.mean(list(better.values())) > 0.1, better
