"""The recipes of SMCP as someone who has the data would start them, on a few random images and for a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edakari
from edakari.pipeline import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SHORT = {
    "method.epochs": "3",
    "method.warmup_epochs": "1",
    "method.ramp_epochs": "1",
    "method.freeze_epochs": "1",
    "method.interval": "1",
    "method.lr": "0.01",
    "model.weights": "random",
    "model.options": "{num_classes: 2}",
    "data.image_size": "32",
    "data.batch_size": "4",
    "measure": "null",
    "export": "[]",
    "device": "cpu",
}
SLOW = pytest.mark.slow


def run(recipe: str, changes: dict[str, str], folder: Path) -> None:
    settings = [f"{key}={value}" for key, value in {**SHORT, **changes}.items()]
    result = edakari.run(read_recipe(RECIPES / f"{recipe}.yaml", settings), folder)
    dense, *_, last = result.report["networks"]
    assert last["costs"]["macs"] <= 0.5 * dense["costs"]["macs"]
    assert last["costs"]["macs"] > 0.4 * dense["costs"]["macs"]
    assert np.isfinite(last["metrics"]["loss"])
    assert all(size % 8 == 0 for size in result.plan.sizes().values())


@pytest.mark.parametrize("network", ["mobilenetv1", pytest.param("resnet50", marks=SLOW)])
def test_imagenet_as_folders_of_images(tmp_path: Path, network: str) -> None:
    rng, image = np.random.default_rng(0), pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    run(f"imagenet_{network}_smcp", {"data.source": str(tmp_path), "data.workers": "0"}, tmp_path / "run")


@pytest.mark.parametrize(
    "network", ["resnet20", *(pytest.param(name, marks=SLOW) for name in ("resnet56", "mobilenetv2"))]
)
def test_cifar_as_npz_files(tmp_path: Path, network: str) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(12) % 2)
    changes = {"data.train": f"[{tmp_path / 'train.npz'}]", "data.val": str(tmp_path / "val.npz")}
    run(f"cifar10_{network}_smcp", changes, tmp_path / "run")
