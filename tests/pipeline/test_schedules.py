"""Schedules as recipes say them: read, stored, read again, and compared with what older versions stored."""

import dataclasses as dc
import json

import pytest
import torch

from edakari.core.curves import Cosine, Exponential, OneCycle
from edakari.core.processes import Processes
from edakari.errors import RecipeError
from edakari.pipeline import recipe_from
from edakari.pipeline.folder import differences
from edakari.pipeline.preflight import check_pruning, check_training
from edakari.pipeline.schema import recipe_schema
from edakari.train import learning_rate
from edakari.train.optim import make_optimizer

RECIPE = {
    "model": {"name": "edakari:fashion_cnn", "weights": "random"},
    "method": "magnitude",
    "budget": "macs<=50%",
    "device": "cpu",
}
IMAGENET = {
    "epochs": 350,
    "lr": 0.032,
    "optimizer": "rmsprop",
    "eps": 0.001,
    "optimizer_options": {"alpha": 0.9},
    "l2": 0.00001,
    "weight_decay": 0.0,
    "curve": {"name": "exponential", "factor": 0.97, "every": 2.4, "warmup": 0.0142857, "warmup_from": 0.5},
}


def recipe(**sections):
    return recipe_from({**RECIPE, **sections})


def test_curves_are_read_with_and_without_settings_and_stored_as_they_were_read():
    one = recipe(
        train=IMAGENET, finetune={"epochs": 3, "curve": "one_cycle", "optimizer": "adamw", "betas": [0.9, 0.99]}
    )
    assert one.train.curve == Exponential(warmup=0.0142857, warmup_from=0.5)
    assert one.finetune.curve == OneCycle()
    assert one.finetune.betas == (0.9, 0.99)
    stored = json.loads(json.dumps(one.content))
    assert stored["train"]["curve"] == IMAGENET["curve"]
    again = recipe_from(stored)
    assert (again.train, again.finetune) == (one.train, one.finetune)
    assert recipe(train={"curve": {"name": "cosine", "final_lr": 0.1}}).train.lr_curve == Cosine(final_lr=0.1)


def test_a_folder_of_an_older_version_is_of_the_same_recipe():
    one = recipe(finetune={"epochs": 3, "lr": 0.02, "drops": [0.5]})
    old = json.loads(json.dumps(one.content))
    for name in ("curve", "eps", "betas", "optimizer_options", "l2"):
        assert old["finetune"].pop(name) is None
    assert list(differences(old, json.loads(json.dumps(one.content)))) == []
    assert recipe_from(old).finetune == one.finetune


@pytest.mark.parametrize(
    ("section", "texts"),
    [
        ({"curve": "one_cycel"}, ["finetune.curve", "did you mean 'one_cycle'"]),
        ({"curve": {"name": "steps", "drop": 2}}, ["finetune.curve.drop", "found 2"]),
        ({"curve": {"name": "steps", "dorp": 0.2}}, ["finetune.curve.dorp", "did you mean 'drop'"]),
        ({"curve": "constant", "final_lr": 0.1}, ["final_lr is of schedules without a curve"]),
        ({"optimizer": "lamp"}, ["finetune.optimizer", "did you mean 'lamb'"]),
        ({"eps": -1}, ["finetune.eps"]),
    ],
)
def test_what_is_wrong_is_told_with_its_key(section, texts):
    with pytest.raises(RecipeError) as caught:
        recipe(finetune=section)
    assert all(text in str(caught.value) for text in texts), caught.value


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"eps": 0.1}, r"train\.eps: optimizer 'sgd' has no such argument"),
        ({"optimizer": "fusedadam"}, r"train\.optimizer: 'fusedadam' cannot be used here"),
        ({"optimizer": "adagrad", "curve": "one_cycle"}, r"train\.curve: 'one_cycle' changes the momentum"),
    ],
)
def test_optimizers_are_checked_before_anything_runs(section, text):
    with pytest.raises(RecipeError, match=text):
        check_training(recipe(train=section), Processes.here())
    with pytest.raises(RecipeError, match=text.replace("train", "finetune")):
        check_pruning(recipe(finetune=section), Processes.here(), lambda stage: False)


def test_a_curve_and_an_optimizer_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from edakari.core.curves import Curve\n"
        "from edakari.core.settings import settings\n"
        "@settings\n"
        "class Saw(Curve):\n"
        "    teeth: int = 2\n"
        "    def rate(self, lr, step, steps, epochs):\n"
        "        return lr * (1 - step % self.teeth / self.teeth)\n"
        "def plain(groups, schedule):\n"
        "    return torch.optim.Rprop(groups, schedule.lr)\n"
    )
    one = recipe(train={"lr": 1.0, "curve": {"name": "mine.py:Saw", "teeth": 4}, "optimizer": "mine.py:plain"})
    assert [learning_rate(one.train, step, 8) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 1.0]
    assert one.content["train"]["curve"] == {"name": "mine.py:Saw", "teeth": 4}
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert type(make_optimizer([parameter], one.train)) is torch.optim.Rprop
    assert dc.replace(one.train, lr=0.5).lr_curve == one.train.curve


def test_the_schema_knows_curves_and_optimizers():
    whole = recipe_schema()
    train = json.dumps([whole["properties"]["train"], whole["$defs"]])
    assert all(name in train for name in ('"lamb"', '"one_cycle"', '"warmup_from"', '"momentum_range"'))
