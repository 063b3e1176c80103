import dataclasses as dc
from typing import Annotated

import pytest
import yaml
from annotated_types import Ge

from edakari.core.method import METHODS, method_named
from edakari.core.plain_values import plain
from edakari.core.protocols import Schedule
from edakari.errors import RecipeError
from edakari.pipeline import FinetuneSettings, read_recipe, recipe_from
from edakari.pipeline.yaml_file import override

MINIMAL = {"model": {"name": "edakari:fashion_cnn"}, "method": {"name": "magnitude"}, "budget": "macs<=50%"}


def refusal(content) -> str:
    with pytest.raises(RecipeError) as error:
        recipe_from(content, "my.yaml")
    return str(error.value)


def test_defaults_are_filled_in():
    recipe = recipe_from(MINIMAL)
    assert recipe.finetune is None
    assert recipe.content["data"]["batch_size"] == recipe.data.batch_size
    assert recipe.content["method"] == {
        "name": "score",
        "criterion": {"name": "magnitude", "p": 2, "normalize": "mean"},
        "allocator": "threshold",
        "iterations": None,
        "recovery_epochs": None,
        "recovery_lr": 0.01,
        "tokens": None,
    }
    assert recipe_from({**MINIMAL, "method": recipe.content["method"]}) == recipe
    assert str(recipe.budget) == "macs<=50%"


def test_what_is_written_reads_back_as_the_same():
    recipe = recipe_from(
        {**MINIMAL, "finetune": {"lr": 0.3, "distill": {"weight": 0.25}}, "groups": {"min_channels": 0.25}}
    )
    again = recipe_from(yaml.safe_load(yaml.safe_dump(dict(recipe.content))))
    assert again == recipe
    assert again.finetune.distill.weight == 0.25
    assert again.groups.min_channels == 0.25


def test_names_alone_will_do():
    assert recipe_from({**MINIMAL, "model": "edakari:fashion_cnn", "method": "magnitude"}) == recipe_from(MINIMAL)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"fintune": {}}, ["my.yaml: fintune", "unknown key", "'finetune'"]),
        ({"finetune": {"epoch": 3}}, ["finetune.epoch", "unknown key", "'epochs'"]),
        ({"finetune": {"distil": {}}}, ["finetune.distil", "'distill'"]),
        ({"finetune": {"epochs": "many"}}, ["finetune.epochs", "integer", "'many'"]),
        ({"finetune": {"epochs": -1}}, ["finetune.epochs", "greater than or equal to 0", "-1"]),
        ({"finetune": {"lr": 0}}, ["finetune.lr", "greater than 0"]),
        ({"finetune": {"optimizer": "sdg"}}, ["finetune.optimizer", "'sgd'", "'sdg'"]),
        ({"finetune": {"distill": {"weight": 2}}}, ["finetune.distill.weight", "less than or equal to 1"]),
        ({"finetune": 3}, ["finetune", "mapping", "3"]),
        ({"model": {}}, ["model.name", "missing"]),
        ({"model": {"name": "edakari:fashion_cnn", "wieghts": "x"}}, ["model.wieghts", "'weights'"]),
        ({"data": {"batchsize": 3}}, ["data.batchsize", "'batch_size'"]),
        ({"method": {"name": "magnitud"}}, ["method.name", "'magnitude'"]),
        ({"method": {"name": "magnitude", "iteration": 2}}, ["method.iteration", "'iterations'"]),
        ({"method": {"name": "magnitude", "criterion": {"p": 3}}}, ["method.criterion.p", "3"]),
        ({"method": {"name": "taylor", "p": 2}}, ["method.p", "unknown key"]),
        ({"method": {"name": "magnitude", "p": 1}}, ["method.p", "criterion: {p: 1}"]),
        ({"method": {"name": "taylor", "criterion": "fpgm"}}, ["method.name", "short for 'score'"]),
        ({"method": {"name": "score", "criterion": "taylr"}}, ["method.criterion", "'taylor'"]),
        ({"method": {"name": "score", "allocator": {"name": "knapsak"}}}, ["method.allocator.name", "'knapsack'"]),
        ({"method": {"name": "dlrfc", "trial": {"tolerance": 0}}}, ["method.trial.tolerance", "greater than 0"]),
        ({"method": {"name": "dlrfc", "trial": 3}}, ["method.trial", "mapping", "3"]),
        (
            {"method": {"name": "dlrfc", "criterion": {"responses": {"tpo": 3}}}},
            ["method.criterion.responses.tpo", "'top'"],
        ),
        ({"method": {}}, ["method.name", "magnitude"]),
        ({"budget": "macs<=fifty"}, ["budget", "fifty"]),
        ({"budget": "mac<=50%"}, ["budget", "'macs'"]),
        ({"budget": 50}, ["budget", "50"]),
        ({"groups": {"min_channels": "x"}}, ["groups.min_channels", "'x'"]),
        ({"measure": {"runtimes": ["torch", "onnx"]}}, ["measure.runtimes[1]", "'onnxruntime'"]),
        ({"export": ["onx"]}, ["export[0]", "'onnx'", "'onx'"]),
        ({"device": "gpu"}, ["device", "'gpu'"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
        ({"seed": True}, ["seed", "integer", "True"]),
        ({"seed": -1}, ["seed", "greater than or equal to 0", "-1"]),
        ({"seed": 2**70}, ["seed", "less than 4294967296"]),
        ({"finetune": {"lr": float("inf")}}, ["finetune.lr", "finite", "inf"]),
        ({"finetune": {"drops": [float("nan")]}}, ["finetune.drops[0]", "finite", "nan"]),
        ({"finetune": {"warmup": 5}}, ["finetune.warmup", "less than or equal to 1", "5"]),
        ({"finetune": {"bank": {"temperature": 0}}}, ["finetune.bank.temperature", "greater than 0", "0"]),
        ({"data": {"batch_size": "64"}}, ["data.batch_size", "integer", "'64'"]),
        ({"data": {"image_size": 0}}, ["data.image_size", "greater than or equal to 1", "0"]),
        ({"data": {"image_size": 1000000}}, ["data.image_size", "less than or equal to 16384"]),
        (
            {"data": {"task": {"name": "classification", "label_smoothing": 5}}},
            ["data.task.label_smoothing", "less than 1", "5"],
        ),
        ({"data": {"mean": [float("inf")]}}, ["data.mean[0]", "finite"]),
        ({"data": {"std": [0.0]}}, ["data.std[0]", "greater than 0"]),
        ({"method": {"name": "smcp", "interval": 0}}, ["method.interval", "greater than or equal to 1"]),
        ({"budget": "macs<=1e400"}, ["budget", "finite"]),
    ],
)
def test_a_problem_names_its_place_and_what_was_found(change, parts):
    message = refusal({**MINIMAL, **change})
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_all_problems_are_listed():
    message = refusal({"model": {"name": 3}, "method": {"name": "x"}, "finetune": {"epoch": 1, "lr": "a"}, "sed": 1})
    assert "6 problems" in message
    for key in ("model.name", "method.name", "finetune.epoch", "finetune.lr", "budget", "sed"):
        assert f"my.yaml: {key}: " in message


def test_the_line_is_named(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: edakari:fashion_cnn\nmethod: magnitude\nbudget: macs<=50%\nfinetune:\n  lr: 0.1\n  epoch: 2\n"
    )
    with pytest.raises(RecipeError, match=r"r\.yaml:6: finetune\.epoch: unknown key"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: [1", r"r\.yaml:\d+: not YAML"),
        ("- 1", "mapping"),
        ("", "mapping"),
        ("seed: 1\nseed: 2", r"r\.yaml:2: seed appears again; it is first in line 1"),
        ("a: !!python/object:os.system {}", "not YAML"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, match):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=match):
        read_recipe(tmp_path / "r.yaml")


def test_no_file(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_values_can_be_replaced(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    settings = [
        "finetune.epochs=7",
        "budget=params<=8M",
        "data.train=[a.npz, b.npz]",
        "method.name=taylor",
        "finetune.lr=1e-3",
    ]
    recipe = read_recipe(path, settings)
    assert recipe.finetune == FinetuneSettings(epochs=7, lr=1e-3)
    assert recipe.data.train == ("a.npz", "b.npz")
    assert (recipe.method, str(recipe.budget)) == (method_named("taylor")(), "params<=8e+06")


def test_replacing_leaves_the_original():
    content = {"a": {"b": 1}}
    assert override(content, ["a.b=2", "c.d=[1]"]) == {"a": {"b": 2}, "c": {"d": [1]}}
    assert content == {"a": {"b": 1}}


@pytest.mark.parametrize("setting", ["a", "=1", "a..b=1", "a.b.c=1", "x=[1"])
def test_settings_that_cannot_be_read(setting):
    with pytest.raises(RecipeError, match="--set"):
        override({"a": {"b": 1}}, [setting])


def test_plain_is_whole():
    assert set(plain(Schedule())) == {field.name for field in dc.fields(Schedule)}


@pytest.mark.parametrize("name", ["fashion_cnn", "fashion_vit", "cifar10_resnet20", "imagenet_resnet50"])
def test_the_recipes_that_ship_are_valid(name, request):
    recipe = read_recipe(request.config.rootpath / "recipes" / f"{name}.yaml")
    assert recipe.finetune is not None


@dc.dataclass(frozen=True)
class Largest:
    """A method of somebody else's, whose fields have names that others use too."""

    paper = "none"
    emits = frozenset()
    weight: float = 2.0
    steps: int = 0
    top: Annotated[float, Ge(3)] = 4.0

    def prune(self, job):
        raise AssertionError


def test_methods_of_others_may_name_their_fields_as_they_like(monkeypatch):
    monkeypatch.setitem(METHODS._registered, "largest", Largest)
    recipe = recipe_from({**MINIMAL, "method": "largest"})
    assert recipe.content["method"] == {"name": "largest", "weight": 2.0, "steps": 0, "top": 4.0}
    message = refusal({**MINIMAL, "method": {"name": "largest", "top": 1}})
    assert "method.top: should be greater than or equal to 3" in message
