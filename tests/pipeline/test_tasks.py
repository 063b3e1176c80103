"""Other tasks than classification, from a recipe to its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edakari
from edakari.errors import RecipeError
from edakari.explain.filters import Choice
from edakari.models import ModelSpec, build
from edakari.pipeline import recipe_from
from edakari.pipeline.explained import run_filters, run_saliency

NETWORKS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, head, mapping):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.head, self.mapping = head, mapping

    def forward(self, images):
        found = self.head(self.body(self.stem(images)))
        return {"out": found} if self.mapping else found


def several():
    return Net(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3)), False)


def maps(mapping=True):
    return Net(nn.Conv2d(24, 3, 1), mapping)
"""
"""The maps are half as large as the images, and in a mapping, as torchvision's are."""


def data(path: Path, task: str) -> str:
    """Squares in the colours of their classes: which ones there are, or which one is where."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 40, (64, 16, 16, 3), dtype=np.uint8)
    labels = np.zeros((64, 16, 16), np.int64)
    for image, label in zip(images, labels, strict=True):
        for kind in generator.permutation([1, 2])[: generator.integers(1, 3)]:
            top, left = generator.integers(0, 9, 2)
            image[top : top + 7, left : left + 7] = np.eye(3, dtype=np.uint8)[kind] * 200
            label[top : top + 7, left : left + 7] = kind
    several = np.stack([(labels == kind).any((1, 2)) for kind in (1, 2)] + [labels.mean((1, 2)) > 0.4], 1)
    np.savez(path, images=images, labels=labels if task == "segmentation" else several.astype(np.int64))
    return str(path)


def content(folder: Path, task: str, **more: Any) -> dict[str, Any]:
    (folder / "networks.py").write_text(NETWORKS)
    make = "several" if task == "multilabel" else "maps"
    return {
        "model": {"name": f"{folder}/networks.py:{make}", "weights": "random"},
        "data": {"task": task, "source": data(folder / "data.npz", task), "batch_size": 16, "calibration_size": 32},
        "method": {"name": "magnitude"},
        "budget": "macs<=50%",
        "finetune": {"epochs": 2, "lr": 0.1, "distill": {"weight": 0.3}},
        "export": ["onnx"],
        **more,
    }


METHODS = [
    {"name": "magnitude"},
    {"name": "taylor"},
    {"name": "rfc", "criterion": {"responses": {"reduce": "max", "top": 6}}},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
@pytest.mark.parametrize(("task", "metric"), [("multilabel", "map"), ("segmentation", "miou")])
def test_a_run_is_pruned_trained_exported_and_reported(
    tmp_path: Path, task: str, metric: str, method: dict[str, Any]
) -> None:
    result = edakari.run(recipe_from(content(tmp_path, task, method=method)), tmp_path / "run")
    dense, pruned, tuned = result.report["networks"]
    assert result.report["metric"] == metric
    assert pruned["costs"]["macs"] <= 0.5 * dense["costs"]["macs"]
    assert tuned["metrics"]["loss"] != pruned["metrics"]["loss"]
    assert 0 < tuned["metrics"][metric] <= 1
    assert (tmp_path / "run" / "export" / "pruned.onnx").is_file()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "mean" in page
    assert ("What the networks find" in page) >= (task == "segmentation")  # example maps, without another command
    assert json.loads((tmp_path / "run" / "report.json").read_text())["metric"] == metric
    views = run_filters(tmp_path / "run", Choice(top=6), trust_code=True)
    counted = {label for layer in views.layers for each in layer.filters for label in each.labels}
    assert counted <= set(range(3))
    assert len(counted) > 1


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_the_whole_method_runs_on_them_too(tmp_path: Path, task: str) -> None:
    method = {
        "name": "dlrfc",
        "criterion": {"responses": {"reduce": "max", "top": 6}},
        "trial": {"tolerance": 20.0, "recovery_epochs": 0},
    }
    result = edakari.run(
        recipe_from(content(tmp_path, task, method=method, finetune=None, export=[])), tmp_path / "run"
    )
    assert result.report["networks"][-1]["costs"]["macs"] <= 0.5 * result.report["networks"][0]["costs"]["macs"]


def test_what_a_filter_tells_apart_is_counted_where_it_is_excited(tmp_path: Path) -> None:
    """A network whose filters answer to one colour each."""
    settings = content(
        tmp_path,
        "segmentation",
        finetune=None,
        export=[],
        method={"name": "rfc", "criterion": {"responses": {"reduce": "max"}}},
    )
    settings["data"]["augment"] = "none"
    path = tmp_path / "known.safetensors"
    model = build(ModelSpec(name=f"{tmp_path}/networks.py:maps"))
    with torch.no_grad():
        first = model.get_submodule("stem.0")
        first.weight.zero_()
        for index in range(16):
            first.weight[index, 1 + index % 2, 1, 1] = 1.0
    save_file(model.state_dict(), path)
    settings["model"]["weights"] = str(path)
    edakari.run(recipe_from(settings), tmp_path / "run")
    (layer,) = run_filters(tmp_path / "run", Choice(layers=("stem.0",), top=8, filters=16), trust_code=True).layers[:1]
    for each in layer.filters:
        assert each.shares.argmax() == 1 + each.index % 2
        assert each.shares.max() > 0.7


def test_isp_refuses_what_it_is_not_defined_for(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'isp' explains at which places"):
        edakari.run(recipe_from(content(tmp_path, "segmentation", method={"name": "isp"})), tmp_path / "run")


def test_isp_explains_images_of_several_classes(tmp_path: Path) -> None:
    short = {"name": "isp", "predictor_epochs": 1, "explainer_epochs": 1, "gate_epochs": 2}
    edakari.run(recipe_from(content(tmp_path, "multilabel", method=short, finetune=None, export=[])), tmp_path / "run")
    view = run_saliency(tmp_path / "run", 16, trust_code=True)
    assert len(view.images) == len(view.dense.masks) == len(view.pruned.masks)
    assert set(view.labels.tolist()) <= set(range(3))


def test_norms_over_whole_maps_have_no_place(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"responses\.reduce: .* to 'max'"):
        edakari.run(recipe_from(content(tmp_path, "segmentation", method={"name": "rfc"})), tmp_path / "run")
