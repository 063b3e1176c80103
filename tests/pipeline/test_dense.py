"""Tasks with an answer at every pixel, through the whole of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edakari
from edakari.errors import DataError
from edakari.pipeline.explained import run_filters
from tests.tasks import test_depth, test_segment, test_super_resolution

NETWORKS = """
from torch import nn
from torch.nn import functional

def block(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

class Maps(nn.Module):
    def __init__(self, outputs, auxiliary=False):
        super().__init__()
        self.stem, self.body = block(3, 16), block(16, 24, 2)
        self.head = nn.Conv2d(24, outputs, 1)
        self.aux = nn.Conv2d(16, outputs, 1) if auxiliary else None

    def forward(self, images):
        first = self.stem(images)
        found = self.head(self.body(first))
        if self.aux is None:
            return found
        return {"out": functional.interpolate(found, images.shape[-2:]), "aux": self.aux(first)}

def segmentation():
    return Maps(3, auxiliary=True)

def depth():
    return Maps(1)

def super_resolution():
    return nn.Sequential(block(3, 16), block(16, 16), nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2))
"""
DATA: dict[str, tuple[Callable[[Path], str], dict[str, Any], str, set[str]]] = {
    "segmentation": (
        lambda path: str(test_segment.folder(path / "data")),
        {"image_size": [16, 24], "task": {"name": "segmentation", "aux_weight": 0.4}},
        "miou",
        {"pixel_accuracy", "mean_accuracy", "loss"},
    ),
    "depth": (
        lambda path: test_depth.folder(path / "data"),
        {"image_size": [16, 24], "task": {"name": "depth", "scale": 0.001, "max_depth": 8}},
        "delta1",
        {"abs_rel", "rmse", "loss"},
    ),
    "super_resolution": (
        lambda path: test_super_resolution.folder(path / "data"),
        {"image_size": [10, 12], "task": {"name": "super_resolution", "factor": 2}},
        "psnr",
        {"ssim", "loss"},
    ),
}


@pytest.mark.parametrize("task", DATA)
def test_a_network_is_pruned_trained_and_judged(tmp_path: Path, task: str) -> None:
    source, data, metric, others = DATA[task]
    (tmp_path / "networks.py").write_text(NETWORKS, encoding="utf-8")
    content = {
        "model": {"name": f"{tmp_path}/networks.py:{task}", "weights": "random"},
        "data": {"source": source(tmp_path), "batch_size": 3, "workers": 0, "calibration_size": 4, **data},
        "method": "taylor",
        "budget": "macs<=60%",
        "finetune": {"epochs": 1, "lr": 0.01, "distill": {"weight": 0.3}},
        "measure": {"runtimes": ["torch"], "repeats": 2, "warmup": 0},
        "device": "cpu",
    }
    edakari.run(content, tmp_path / "run", trust_code=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["metric"] == metric
    dense, *_, pruned, tuned = report["networks"]
    assert tuned["costs"]["macs"] <= 0.6 * dense["costs"]["macs"]
    assert set(tuned["metrics"]) == {metric, *others}
    assert tuned["metrics"]["loss"] != pruned["metrics"]["loss"]
    assert (tmp_path / "run" / "report.html").is_file()
    if task != "segmentation":
        with pytest.raises(DataError, match=f"data.task {task!r} has (depths|images) instead of classes"):
            run_filters(tmp_path / "run", trust_code=True)
