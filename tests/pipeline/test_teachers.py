"""Teachers that a recipe names: networks and functions of a user's file, outputs and features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import edakari
from edakari.errors import DataError, RecipeError, UnknownName, UntrustedCode
from edakari.pipeline import read_recipe, recipe_from
from tests.pipeline.test_detection import NETWORK
from tests.tasks.test_detection import coco

TEACHERS = """
import torch
from torch import nn


def wide():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))


def oracle():
    return lambda batch: 20 * nn.functional.one_hot(batch[1], 3).float()


def failing():
    raise OSError("no weights here")


def text():
    return "a network"
"""


@pytest.fixture
def teachers(tmp_path: Path) -> Path:
    (tmp_path / "teachers.py").write_text(TEACHERS, encoding="utf-8")
    return tmp_path / "teachers.py"


def tuned(content: dict[str, Any], **finetune: Any) -> dict[str, Any]:
    return {**content, "method": "magnitude", "measure": None, "finetune": {"epochs": 3, "lr": 0.05, **finetune}}


@pytest.mark.parametrize("name", ["wide", "oracle"])
def test_a_network_or_function_of_a_file_teaches(content: Any, teachers: Path, tmp_path: Path, name: str) -> None:
    settings = tuned(content, teacher=f"{teachers}:{name}", distill={"weight": 1.0, "temperature": 1.0})
    recipe = recipe_from(settings)
    assert recipe_from(recipe.content).content == recipe.content
    result = edakari.run(recipe, tmp_path / "run")
    first, *_, last = result.report["epochs"]
    assert first["cross_entropy"] == 0
    assert last["distillation"] < first["distillation"]
    _, pruned, finished = result.report["networks"]
    if name == "oracle":  # which knows the labels
        assert finished["metrics"]["top1"] >= pruned["metrics"]["top1"]


def test_features_of_the_dense_network_that_the_plan_kept_teach(content: Any, tmp_path: Path) -> None:
    result = edakari.run(recipe_from(tuned(content, distill={"features": {"3": 0.5, "0": 1}})), tmp_path / "run")
    epochs = result.report["epochs"]
    assert result.plan.sizes()
    assert {"cross_entropy", "features.3", "features.0"} <= set(epochs[0])
    assert "distillation" not in epochs[0]
    stored = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    assert stored["finetune"]["distill"]["features"] == {"3": 0.5, "0": 1}


@pytest.mark.parametrize(
    ("finetune", "error", "said"),
    [
        ({"teacher": "best"}, RecipeError, 'finetune.teacher must be "dense", "bank" or "path/to/file.py:name"'),
        ({"teacher": "bank", "distill": {"weight": 0.5}}, RecipeError, "finetune.distill compares with one network"),
        ({"teacher": "bank", "distill": {"features": {"3": 1}}}, RecipeError, "finetune.distill compares with one net"),
        ({"teacher": "teachers.py:wide"}, RecipeError, r"finetune\.distill\.weight must be above 0 where a network"),
        ({"distill": {"features": {"3": 0}}}, RecipeError, "finetune.distill.features"),
        ({"distill": {"features": {"layer": 1.0}}}, UnknownName, "unknown module of Sequential 'layer'"),
        ({"teacher": "teachers.py:none", "distill": {"weight": 1.0}}, UnknownName, "none"),
        (
            {"teacher": "teachers.py:failing", "distill": {"weight": 1.0}},
            RecipeError,
            "fails: OSError: no weights here",
        ),
        ({"teacher": "teachers.py:text", "distill": {"weight": 1.0}}, RecipeError, "gave a str; it gives a network"),
        ({"teacher": "nothing.py:make", "distill": {"weight": 1.0}}, RecipeError, "there is no file 'nothing.py'"),
        ({"teacher": "teachers.py:wide", "distill": {"features": {"3": 1.0}}}, DataError, "features"),
    ],
)
def test_what_cannot_teach_is_told_before_the_pruning(
    content: Any, teachers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetune: Any, error: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = edakari.errors.ModelError if error is DataError else error
    with pytest.raises(expected, match=said):
        edakari.run(recipe_from(tuned(content, **finetune)), tmp_path / "run")
    assert not (tmp_path / "run" / "stages" / "prune.json").exists()


def test_a_teacher_of_a_stranger_does_not_run_unasked(content: Any, teachers: Path, tmp_path: Path) -> None:
    teachers.write_text("open('ran', 'w').close()", encoding="utf-8")
    settings = tuned(content, teacher=f"{teachers}:wide", distill={"weight": 1.0})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(UntrustedCode, match="names Python code for its teacher"):
        read_recipe(tmp_path / "recipe.yaml")
    assert not Path("ran").exists()


def test_a_detector_learns_from_features_and_its_boxes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        "method": "magnitude", "budget": "macs<=70%", "device": "cpu",
        "finetune": {"epochs": 1, "lr": 0.0001, "distill": {"features": {"backbone": 1.0}}},
    }  # fmt: skip
    edakari.run(content, tmp_path / "run", trust_code=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert {"bbox_regression", "classification", "features.backbone"} <= set(report["epochs"][0])
    boxes = {**content, "finetune": {"epochs": 1, "distill": {"weight": 0.5}}}
    with pytest.raises(RecipeError, match=r"boxes of two networks cannot be compared .* name modules in finetune"):
        recipe_from(boxes)
