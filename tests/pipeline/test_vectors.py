"""Embeddings and numbers, from a recipe to its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edakari
from edakari.pipeline import recipe_from

NETWORK = """
from torch import nn


def make(outputs=2):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, outputs),
    )
"""


def arrays(path: Path, count: int, task: str, seed: int) -> str:
    """A bright square: one of two kinds, or where it is."""
    rng = np.random.default_rng(seed)
    images, places = rng.integers(0, 40, (count, 12, 12, 1), dtype=np.uint8), rng.integers(0, 8, (count, 2))
    kinds = np.arange(count) % 2
    for image, (y, x), kind in zip(images, places, kinds, strict=True):
        image[y : y + 4, x : x + 2 + 2 * kind] += 200
    np.savez(path, images=images, labels=kinds if task == "embedding" else places / 8)
    return str(path)


@pytest.mark.parametrize(
    ("task", "options", "metric"),
    [("embedding", {"loss": "contrastive"}, "recall_at_1"), ("regression", {"loss": "huber", "delta": 0.1}, "r2")],
)
def test_a_run_is_pruned_trained_and_reported(tmp_path: Path, task: str, options: Any, metric: str) -> None:
    (tmp_path / "network.py").write_text(NETWORK, encoding="utf-8")
    train, val = arrays(tmp_path / "t.npz", 64, task, 0), arrays(tmp_path / "v.npz", 32, task, 1)
    content = {
        "model": {"name": f"{tmp_path}/network.py:make", "weights": "random"},
        "data": {"task": {"name": task, **options}, "train": [train], "val": val, "batch_size": 16, "augment": "none"},
        "method": "taylor",
        "budget": "macs<=60%",
        "recalibrate": 2,
        "finetune": {"epochs": 3, "lr": 0.05, "distill": {"weight": 0.2}},
        "device": "cpu",
    }
    result = edakari.run(recipe_from(content), tmp_path / "run")
    dense, pruned, tuned = result.report["networks"]
    assert result.report["metric"] == metric
    assert pruned["costs"]["macs"] <= 0.6 * dense["costs"]["macs"]
    assert tuned["metrics"][metric] > dense["metrics"][metric] - 0.1
    first, *_, last = result.report["epochs"]
    assert last["loss"] < first["loss"]


def test_class_names_and_preprocessing_are_stored(content: Any, tmp_path: Path) -> None:
    recipe = recipe_from({**content, "method": "magnitude", "finetune": None, "measure": None})
    edakari.run(recipe, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "task.json").read_text(encoding="utf-8"))
    assert (stored["task"], stored["classes"]) == ("Classification", ["0", "1", "2"])
    found = stored["preprocessing"]
    assert (found["size"], found["channels"]) == ([8, 8], 1)
    assert 0 < found["mean"][0] < 1
