"""A detector through the whole of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from tests.tasks.test_detection import coco

NETWORK = """
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

class Backbone(nn.Sequential):
    out_channels = 16

def make(classes=3):
    layers = [3, 8, 16, 16]
    blocks = [
        nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        for a, b in zip(layers, layers[1:])
    ]
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    size = dict(min_size=64, max_size=96, image_mean=(0.0,) * 3, image_std=(1.0,) * 3, topk_candidates=50)
    return RetinaNet(Backbone(*blocks), classes, anchor_generator=anchors, score_thresh=0.01, **size)
"""


def test_a_detector_is_pruned_trained_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(NETWORK, encoding="utf-8")
    source = coco(tmp_path)
    content = {
        "model": {"name": "network.py:make", "weights": "random"},
        "data": {
            "task": "detection", "train": [source], "val": source, "image_size": [64, 96], "batch_size": 2,
            "workers": 0, "calibration_size": 4,
        },
        "method": "taylor",
        "budget": "macs<=60%",
        "finetune": {"epochs": 1, "lr": 0.001},
        "measure": {"runtimes": ["torch"], "repeats": 2, "warmup": 0},
        "device": "cpu",
    }  # fmt: skip
    torch.manual_seed(0)
    edakari.run(content, tmp_path / "run", trust_code=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["metric"] == "map"
    dense, pruned = report["networks"][0], report["networks"][-1]
    assert pruned["costs"]["macs"] <= 0.6 * dense["costs"]["macs"]
    assert set(pruned["metrics"]) >= {"map", "map50"}


class Regions(nn.Module):
    """A head for each place whose features are small: the fewer channels, the more places."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.features, self.limit = nn.Conv2d(3, 16, 3, padding=1), limit
        self.head = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Four numbers for each place."""
        found = self.features(images).relu()
        places = found.permute(0, 2, 3, 1)[found.sum(1) < self.limit]
        numbers: torch.Tensor = self.head(places)
        return numbers


@pytest.mark.parametrize(
    ("method", "groups"),
    [
        ("magnitude", {}),
        ({"name": "magnitude", "iterations": 3}, {}),
        ("magnitude", {"widths": {"features": 9}}),
        ({"name": "magnitude", "iterations": 2}, {"widths": {"head.0": 40}}),
    ],
    ids=str,
)
def test_a_budget_holds_for_the_regions_that_the_dense_network_has(method: Any, groups: Any) -> None:
    torch.manual_seed(0)
    example = torch.randn(1, 3, 12, 12)
    model = Regions(0.0).eval()
    with torch.no_grad():
        model.limit = float(model.features(example).relu().sum(1).median())
        few = len(model(example))
    result = edakari.prune(model, example, "macs<=50%", method=method, groups={"round_to": 1, **groups})
    assert len(result.model(example)) > few
    dense = result.report["networks"][0]["costs"]
    # within one channel of the budget
    assert 0.46 * dense["macs"] < result.costs["macs"] <= 0.5 * dense["macs"]
    widths = result.model.features.out_channels, result.model.head[0].out_features
    own = 12 * 12 * 27 * widths[0] + few * (widths[0] * widths[1] + widths[1] * 4)
    assert result.costs["macs"] == own
