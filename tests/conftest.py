"""Settings that every test runs under."""

from __future__ import annotations

import os

# before torch is imported, here and in the processes of tests: kernels of another number of threads round differently
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and lines would be broken as in a terminal

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from edakari.models.trust import remember

# a shared machine is at times slow, and a slow example is not a wrong one
hypothesis.settings.register_profile("edakari", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("edakari")

torch.set_num_threads(1)

FACTORY = """
import torch
from torch import nn


def tiny(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, classes),
    )
"""


@pytest.fixture(scope="session", autouse=True)
def _configuration(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests remember what they trust in a folder of their own."""
    os.environ["EDAKARI_CONFIG"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(autouse=True)
def _small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches are flushed in microseconds."""
    monkeypatch.setattr("edakari.core.far_side.loops.LARGEST_FLUSH", 2**16)
    monkeypatch.setattr("edakari.core.far_side.loops.STREAM", 2**16)


@pytest.fixture
def content(tmp_path: Path) -> dict:
    """See `tiny_recipe`."""
    return tiny_recipe(tmp_path)


def tiny_recipe(tmp_path: Path) -> dict:
    """A recipe that runs in a second: a tiny network of a user's own on tiny arrays.

    Args:
        tmp_path: folder of the network and the arrays.
    """
    rng = np.random.default_rng(0)
    (tmp_path / "nets.py").write_text(FACTORY)
    remember(f"{tmp_path}/nets.py:tiny")  # as a user who has run it by --trust
    for name, count in (("train", 48), ("val", 24)):
        labels = np.arange(count) % 3
        images = (rng.integers(0, 60, (count, 8, 8, 1)) + labels[:, None, None, None] * 60).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels.astype(np.int64))
    return {
        "model": {"name": f"{tmp_path}/nets.py:tiny", "weights": "random"},
        "data": {
            "train": [str(tmp_path / "train.npz")],
            "val": str(tmp_path / "val.npz"),
            "batch_size": 16,
            "augment": "none",
        },
        "method": {"name": "magnitude"},
        "budget": "macs<=50%",
        "finetune": {"epochs": 2, "lr": 0.05, "distill": {"weight": 0.5}},
        "measure": {"runtimes": ["torch"], "repeats": 3, "warmup": 1},
        "device": "cpu",
    }
