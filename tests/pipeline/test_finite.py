"""Runs on networks and trainings that are not finite end in one error, and leave no JSON that is none."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
import edakari.surgery.differences as differences_module
from edakari.core.graph import Graph
from edakari.core.method import method_named, registered
from edakari.core.plan import Plan
from edakari.criteria import CRITERIA
from edakari.errors import EdakariError, ModelError, PlanError
from edakari.pipeline import recipe_from, train_dense
from edakari.pipeline.log import logged
from edakari.surgery import apply
from edakari.testing import toy_cnn, toy_job, toy_vit

SPOILED = """

def nan_weight():
    model = tiny()
    model[3].weight.data[0, 0, 0, 0] = torch.nan
    return model


def negative_variance():
    model = tiny()
    model[1].running_var[2] = -1e3
    return model


def overflow():
    model = tiny()
    model[7].weight.data.fill_(3e38)
    model[7].bias.data.fill_(3e38)
    return model
"""


@pytest.fixture
def spoiled(content: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    with (tmp_path / "nets.py").open("a") as file:
        file.write(SPOILED)
    return content


@pytest.mark.parametrize("method", ["magnitude", "random", "bn_scale"])
@pytest.mark.parametrize(
    ("network", "words"), [("nan_weight", "'3.weight'"), ("negative_variance", "'1'"), ("overflow", "'7'")]
)
def test_dense_networks_that_are_not_finite_are_refused(
    spoiled: dict[str, Any], method: str, network: str, words: str, tmp_path: Path
) -> None:
    spoiled["model"]["name"] = spoiled["model"]["name"].replace(":tiny", f":{network}")
    spoiled["method"] = {"name": method}
    with pytest.raises(ModelError, match=f"the dense network .*not finite.*{words}"):
        edakari.run(recipe_from(spoiled), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lr", [1e30, math.inf])
def test_a_last_step_that_diverges_is_an_error(content: dict[str, Any], lr: float, tmp_path: Path) -> None:
    once = {"epochs": 1, "lr": lr, "warmup": 0.0, "final_lr": 1.0, "distill": {"weight": 0.0}}
    content["data"]["batch_size"] = 48
    with pytest.raises(EdakariError, match=r"finetune\.lr|lower the learning rate|lr"):
        edakari.run(recipe_from({**content, "finetune": once}), tmp_path / "run")
    assert not (tmp_path / "run" / "stages" / "finetune.json").exists()
    for path in (tmp_path / "run").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path}"))  # noqa: B023
    once.pop("distill")
    with pytest.raises(EdakariError, match=r"train\.lr|lower the learning rate|lr"):
        train_dense(recipe_from({**content, "train": once}), tmp_path / "dense.safetensors")
    assert not (tmp_path / "dense.safetensors").exists()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e-3])
@pytest.mark.parametrize("edits", [True, False])
def test_the_check_sees_what_apply_does_wrong(
    content: dict[str, Any], wrong: float, edits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: nn.Module, plan: Plan, graph: Graph) -> nn.Module:
        made = apply(model, plan, graph)
        if bool(plan.edits) == edits:
            made.get_parameter("7.bias").data[0] += wrong
        return made

    monkeypatch.setattr(differences_module, "apply", spoil)
    words = "the cut network and its masked twin" if edits else "what an empty plan makes of it"
    with pytest.raises(PlanError, match=f"{words} differ"):
        edakari.run(recipe_from(content), tmp_path / "run")


def test_figures_of_a_log_that_are_not_finite_go_into_its_text() -> None:
    assert logged("step", {"macs": 2.0}) == {"stage": "step", "macs": 2.0}
    assert logged("step", {"a": math.nan, "macs": 2.0, "b": -math.inf}) == {
        "stage": "step (a is nan, b is -inf)",
        "macs": 2.0,
    }


SHORT = {
    "epochs": 2,
    "warmup_epochs": 0,
    "ramp_epochs": 1,
    "freeze_epochs": 0,
    "interval": 2,
    "predictor_epochs": 1,
    "explainer_epochs": 1,
    "gate_epochs": 2,
    "milestones": 2,
    "milestone_interval": 2,
    "warmup_images": 8,
    "search_images": 4,
    "training": {"imitation_epochs": 1, "selector_epochs": 1, "joint_epochs": 1},
}
BY_VALUES = {"magnitude", "fpgm", "taylor", "rfc", "score", "dlrfc", "isp", "smcp", "halp", "ekg", "gradual_magnitude"}
"""Methods that look at values of the first weights."""


@pytest.mark.parametrize("name", sorted({*registered(), *CRITERIA}))
def test_methods_called_with_a_network_that_gives_nan_end_in_words(name: str) -> None:
    method = method_named(name)
    cls: Any = registered().get(name, registered()["score"])
    network = toy_vit() if "KeepTokens" in {kind.__name__ for kind in cls.emits} else toy_cnn()
    next(network.parameters()).data.view(-1)[0] = torch.nan
    fields = {key: value for key, value in SHORT.items() if key in cls.__dataclass_fields__}
    if name in BY_VALUES:
        with pytest.raises(EdakariError, match="finite"):
            method(**fields).prune(toy_job(network, "sparsity>=10%" if name == "gradual_magnitude" else "macs<=50%"))
        return
    with contextlib.suppress(EdakariError):
        method(**fields).prune(toy_job(network, "macs<=80%"))
