"""Plug-ins outside of the package, one file each, named by a recipe; and what happens where nobody trusts them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import edakari
from edakari.cost import bind
from edakari.errors import DataError, RecipeError, UntrustedCode
from edakari.graph import trace
from edakari.models.trust import code_in, remember
from edakari.pipeline import read_recipe, recipe_from
from edakari.testing import ToyTask, check_allocator, check_cost, check_criterion, toy_cnn

HERE = Path(__file__).parents[1] / "plugins"
NAMES = {
    "criterion": "LargestWeight",
    "cost": "energy",
    "allocator": "SameFraction",
    "task": "brightness",
    "runtime": "Stopwatch",
    "exporter": "shapes",
    "source": "halves",
}
RECIPE: dict[str, Any] = {
    "model": {"name": "edakari:fashion_cnn", "weights": "pretrained"},
    "data": {"task": "task.py:brightness", "batch_size": 16},
    "method": {
        "name": "score",
        "criterion": {"name": "criterion.py:LargestWeight", "power": 2.0},
        "allocator": {"name": "allocator.py:SameFraction", "steps": 64},
    },
    "budget": "cost.py:energy<=50%",
    "measure": {"runtimes": ["runtime.py:Stopwatch"], "repeats": 2, "warmup": 0},
    "export": ["exporter.py:shapes"],
    "device": "cpu",
}

SMALL = """
from torch import nn


def small():
    layers = [nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(24, 3))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's own, with the plug-ins in it."""
    for path in HERE.glob("*.py"):
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDAKARI_CONFIG", str(tmp_path / "config"))
    return tmp_path


def test_each_kind_is_one_file_that_a_recipe_names(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    recipe = read_recipe("recipe.yaml", trust_code=True)
    edakari.run(recipe, folder / "run")
    report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    network = edakari.build("edakari:fashion_cnn")
    first, second, _ = report["networks"]
    dense, pruned = (each["costs"]["cost.py:energy"] for each in (first, second))
    assert dense == bind(recipe.budget, trace(network, torch.zeros(1, 1, 28, 28))).terms[0][0].total({})
    assert 0.4 * dense < pruned <= 0.5 * dense
    assert report["metric"] == "minus_error"
    assert report["method"] == "criterion.py:LargestWeight"
    assert all(each["kept"] < each["size"] for each in report["groups"])
    assert set(first["latency"]) == {"runtime.py:Stopwatch"}
    assert "classifier" in (folder / "run" / "export" / "pruned.txt").read_text(encoding="utf-8")
    again = recipe_from(yaml.safe_load((folder / "run" / "recipe.yaml").read_text(encoding="utf-8")))
    assert again.content == recipe.content


@pytest.mark.parametrize("kind", sorted(NAMES))
def test_nothing_of_a_stranger_runs_unasked(kind: str, folder: Path) -> None:
    named = f"{kind}.py:{NAMES[kind]}"
    (folder / f"{kind}.py").write_text("open('ran', 'w').close()\nraise SystemExit(3)", encoding="utf-8")
    content: dict[str, Any] = {"model": RECIPE["model"], "method": "magnitude", "budget": "macs<=50%"}
    places: dict[str, dict[str, Any]] = {
        "criterion": {"method": {"name": "score", "criterion": named}},
        "allocator": {"method": {"name": "magnitude", "allocator": {"name": named}}},
        "cost": {"budget": f"macs<=50%, {named}<=3k"},
        "task": {"data": {"task": named}},
        "source": {"data": {"source": named}},
        "runtime": {"measure": {"runtimes": ["torch", named]}},
        "exporter": {"export": [named]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**content, **places[kind]}), encoding="utf-8")
    with pytest.raises(UntrustedCode, match=rf"recipe.yaml names Python code .*'{NAMES[kind]}' of {kind}\.py"):
        edakari.run(read_recipe("recipe.yaml"), folder / "run")
    assert not (folder / "ran").exists()


def test_code_that_was_trusted_once_runs_again(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    with pytest.raises(UntrustedCode):
        read_recipe("recipe.yaml")
    named = set(code_in(recipe_from(RECIPE).content))
    assert named == {f"{kind}.py:{name}" for kind, name in NAMES.items() if kind != "source"}
    for name in named:
        remember(name)
    assert read_recipe("recipe.yaml").content["method"]["criterion"]["power"] == 2.0


def test_settings_of_a_plug_in_are_checked_like_others(folder: Path) -> None:
    wrong = {**RECIPE, "method": {"name": "score", "criterion": {"name": "criterion.py:LargestWeight", "power": 0}}}
    with pytest.raises(RecipeError, match=r"method\.criterion\.power: should be greater than 0"):
        recipe_from(wrong)
    with pytest.raises(RecipeError, match=r"method\.criterion: .*has no 'score'"):
        recipe_from({**RECIPE, "method": {"name": "score", "criterion": "allocator.py:SameFraction"}})


def test_parameters_of_a_function_that_makes_a_task_are_its_settings(folder: Path) -> None:
    from edakari.tasks import task_from_settings

    def tasked(task: Any) -> Any:
        recipe = recipe_from({**RECIPE, "data": {"task": task, "batch_size": 16}, "seed": 3})
        assert recipe_from(recipe.content).content == recipe.content
        return task_from_settings(recipe.data, recipe.seed)

    task = tasked({"name": "task.py:brightness", "power": 0.5})
    assert (task.batch, task.seed, task.power) == (16, 3, 0.5)
    assert tasked("task.py:brightness").power == 1.0
    with pytest.raises(RecipeError, match=r"data\.task\.power: should be less than or equal to 1, found 5"):
        tasked({"name": "task.py:brightness", "power": 5})
    with pytest.raises(RecipeError, match=r"data\.task\.powr: unknown key; did you mean 'power'"):
        tasked({"name": "task.py:brightness", "powr": 1})
    (folder / "nothing.py").write_text("def nothing(root='x'):\n    return root", encoding="utf-8")
    with pytest.raises(DataError, match=r"'nothing\.py:nothing' returned str, which has no 'metric'"):
        tasked("nothing.py:nothing")
    (folder / "loose.py").write_text("def loose(*names):\n    return names", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"data\.task: the task 'loose' takes names; give every parameter a name"):
        tasked("loose.py:loose")


@pytest.mark.parametrize("method", ["rfc", {"name": "ekg", "warmup_images": 4, "search_images": 4}], ids=str)
def test_a_task_with_indexed_examples_serves_methods_and_teachers_that_need_them(folder: Path, method: Any) -> None:
    (folder / "net.py").write_text(SMALL, encoding="utf-8")
    recipe = {
        "model": {"name": "net.py:small", "weights": "random"},
        "data": {"task": {"name": "indexed.py:halves", "count": 24}, "batch_size": 8},
        "method": method, "budget": "macs<=60%", "device": "cpu",
        "finetune": {"epochs": 2, "lr": 0.05, "views": 2, "teacher": "bank", "bank": {"teachers": 2}},
    }  # fmt: skip
    result = edakari.run(recipe, folder / "run", trust_code=True)
    assert result.report["metric"] == "accuracy"
    assert all(epoch["bank"] > 0 for epoch in result.report["epochs"])
    assert 0.3 < result.costs["macs"] / result.report["networks"][0]["costs"]["macs"] <= 0.6


def test_a_source_of_data(folder: Path) -> None:
    recipe = recipe_from({**RECIPE, "data": {"source": "source.py:halves", "batch_size": 16, "workers": 0}})
    from edakari.tasks import task_from_settings

    task: Any = task_from_settings(recipe.data)
    assert task.classes == ("dark", "bright")
    assert len(task.labels("val")) == 16


def test_plug_ins_keep_the_promises_of_their_kind(folder: Path) -> None:
    from edakari.core.registry import Registry
    from edakari.cost import COSTS
    from edakari.criteria import CRITERIA
    from edakari.solve import ALLOCATORS

    kinds: list[tuple[Registry[Any], str]] = [(CRITERIA, "criterion"), (ALLOCATORS, "allocator"), (COSTS, "cost")]
    criterion, allocator, cost = (registry.named(f"{kind}.py:{NAMES[kind]}") for registry, kind in kinds)
    check_criterion(criterion())
    check_allocator(allocator())
    check_cost(cost(trace(toy_cnn(), ToyTask().example())), trace(toy_cnn(), ToyTask().example()).groups)


def test_a_runtime_that_times_whole_networks_meets_a_latency(folder: Path) -> None:
    latency = {"runtime": "runtime.py:Stopwatch", "repeats": 10, "warmup": 0, "spread": 0.9, "cache": "tables"}
    content = {"model": RECIPE["model"], "data": RECIPE["data"], "method": "magnitude", "device": "cpu"}
    edakari.run({**content, "budget": "latency<=60%", "latency": latency}, folder / "run")
    report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    first, second, _ = report["networks"]
    fraction = second["costs"]["params"] / first["costs"]["params"]  # which is what this runtime's time is made of
    assert 0.4 < fraction < 0.8  # 0.6, if the machine did nothing else
