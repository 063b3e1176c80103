"""What `edakari prune` refuses before it runs, `edakari train` refuses too, and nothing is left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import edakari
import edakari.pipeline.dense_training as dense_training
import edakari.pipeline.stages as stages
from edakari.cli.main import app
from edakari.errors import EdakariError, ModelError
from edakari.models.trust import remember
from edakari.pipeline import recipe_from, train_dense
from edakari.pipeline.explained import run_filters, run_predictions
from tests.pipeline import test_trial as wrong
from tests.pipeline.test_trial import WRONG, cross_entropy, tasked

ONCE = {"epochs": 1, "lr": 0.01}
OWN = """
from tests.pipeline import test_training_trial as cases
from tests.pipeline.test_trial import network


def task(case: str):
    return cases.TASKS[case]()
"""


class Late:
    """A loss that fails after some batches."""

    def __init__(self, good: int) -> None:
        self.good = good

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        self.good -= 1
        if self.good < 0:
            raise KeyError("no more")
        return cross_entropy(model, batch)


def failing() -> Any:
    raise ZeroDivisionError


def of_changes(changes: dict[str, Any]) -> Callable[[], Any]:
    return lambda: tasked(**changes)


def of_figures(figures: Any) -> Callable[[], Any]:
    return lambda: wrong.Plain(figures)


FIGURES = {"none": None, "number": 0.5, "text": {"accuracy": "good"}, "other": {"precision": 0.5}}
REFUSED: dict[str, Callable[[], Any]] = {
    **{f"{place} {said[:30]}": of_changes(changes) for place, (changes, _, said) in enumerate(WRONG)},
    **{f"gives {name}": of_figures(figures) for name, figures in FIGURES.items()},
    "fails": failing,
}
TASKS = {**REFUSED, "good": tasked, "fails at the second step": of_changes({"loss": Late(2)})}


def recipe(tmp_path: Path, case: str, **more: Any) -> Any:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    for made in ("task", "network"):
        remember(f"{tmp_path}/own.py:{made}")
    return recipe_from({
        "model": {"name": f"{tmp_path}/own.py:network", "weights": "random"},
        "data": {"task": {"name": f"{tmp_path}/own.py:task", "case": case}},
        "method": "taylor", "budget": "macs<=90%", "finetune": ONCE, "train": ONCE, "device": "cpu", **more,
    })  # fmt: skip


@pytest.fixture
def too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that takes long may begin."""
    monkeypatch.setattr(stages, "measured_latencies", lambda run: pytest.fail("it is too late now"))
    monkeypatch.setattr(dense_training, "training_loop", lambda recipe: pytest.fail("it is too late now"))


def require_both_refuse(asked: Any, tmp_path: Path) -> tuple[EdakariError, EdakariError]:
    """Return the errors with which pruning and training refuse a recipe; neither may leave a file."""
    found = []
    before = {*tmp_path.iterdir()}
    for call, output in ((edakari.run, "run"), (train_dense, "dense.safetensors")):
        with pytest.raises(EdakariError) as caught:
            call(asked, tmp_path / output)
        found.append(caught.value)
    assert {*tmp_path.iterdir()} == before
    return found[0], found[1]


@pytest.mark.usefixtures("too_late")
@pytest.mark.parametrize("case", REFUSED)
def test_a_task_that_pruning_refuses_is_refused_by_training(case: str, tmp_path: Path) -> None:
    pruned, trained = require_both_refuse(recipe(tmp_path, case), tmp_path)
    assert type(pruned) is type(trained)


def with_data(**changes: Any) -> Callable[[dict[str, Any], Path], None]:
    return lambda content, tmp_path: content["data"].update(changes)


def with_network(code: str) -> Callable[[dict[str, Any], Path], None]:
    def change(content: dict[str, Any], tmp_path: Path) -> None:
        with (tmp_path / "nets.py").open("a", encoding="utf-8") as file:
            file.write(f"\n\ndef other():\n    model = tiny()\n    {code}\n    return model\n")
        content["model"] = {"name": f"{tmp_path}/nets.py:other", "weights": "as_built"}
        remember(content["model"]["name"])

    return change


def with_labels(content: dict[str, Any], tmp_path: Path) -> None:
    """More classes than the network has."""
    for name in ("train", "val"):
        images = np.load(tmp_path / f"{name}.npz")["images"]
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(len(images)) % 5)


CONTENTS: dict[str, tuple[Callable[[dict[str, Any], Path], None], str]] = {
    "an image size": (with_network("model[5] = nn.Identity(); model[7] = nn.Linear(12 * 16, 3)"), "forward pass of"),
    "channels": (with_network("model[0] = nn.Conv2d(3, 8, 3)"), "forward pass of"),
    "NaN": (with_network("model[7].weight.data[0] = float('nan')"), r"not finite .* in '7\.weight'"),
    "classes": (with_labels, "the data has 5 classes; build it with num_classes=5"),
    "maps": (with_network("model = model[:6]"), r"gives \[16, 12, 1, 1\] for a batch"),
    "several outputs": (with_network("model[7] = nn.LSTM(12, 3)"), "gives tuple for a batch"),
    "numbers": (with_data(task="regression"), "numbers for each"),
    "no data": (with_data(train=["none.npz"]), "there is no such file"),
}


@pytest.mark.usefixtures("too_late")
@pytest.mark.parametrize("case", CONTENTS)
def test_a_network_that_pruning_refuses_is_refused_by_training(
    case: str, content: dict[str, Any], tmp_path: Path
) -> None:
    change, said = CONTENTS[case]
    change(content, tmp_path)
    for error in require_both_refuse(recipe_from({**content, "train": ONCE}), tmp_path):
        assert re.search(said, str(error)), error


def test_data_that_changed_after_the_run_is_told_by_what_shows_it(content: dict[str, Any], tmp_path: Path) -> None:
    edakari.run(recipe_from({**content, "finetune": None, "measure": None}), tmp_path / "run")
    for name in ("train", "val"):
        data = np.load(tmp_path / f"{name}.npz")
        np.savez(tmp_path / f"{name}.npz", images=data["images"].repeat(3, 3), labels=data["labels"])
    for show in (run_filters, run_predictions):
        with pytest.raises(ModelError, match=r"forward pass of Sequential fails on an example of shape \(1, 3, 8, 8\)"):
            show(tmp_path / "run", trust_code=True)


def test_the_command_says_one_line(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "fails").content
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({key: asked[key] for key in ("model", "data", "train")}), encoding="utf-8")
    found = CliRunner().invoke(app, ["train", str(file), "--trust", "-o", str(tmp_path / "x.safetensors")])
    assert found.exit_code == 1
    (line,) = found.stderr.splitlines()
    assert re.search(
        r"Error: data\.task: 'task' fails: ZeroDivisionError: .*test_training_trial\.py:\d+, in failing", line
    )
    assert not [*tmp_path.glob("x*")]


def test_a_training_that_fails_before_its_first_checkpoint_binds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(KeyError):
        train_dense(recipe(tmp_path, "fails at the second step"), path)  # the trial took the first
    assert not [*tmp_path.glob("x*")]


def test_a_training_that_was_killed_before_its_first_checkpoint_binds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "x.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(dense_training, "training_loop", lambda asked: killed)
        with pytest.raises(KeyboardInterrupt):
            train_dense(recipe(tmp_path, "good"), path)
    assert (tmp_path / "x.safetensors.work").is_dir()
    train_dense(recipe(tmp_path, "good", train={"epochs": 2, "lr": 0.1}), path)
    assert sorted(found.name for found in tmp_path.glob("x*")) == ["x.json", "x.safetensors"]


def test_the_trial_changes_nothing_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_dense(recipe(tmp_path, "good"), tmp_path / "tried.safetensors")
    monkeypatch.setattr(dense_training, "try_training", lambda trial: None)
    train_dense(recipe(tmp_path, "good"), tmp_path / "untried.safetensors")
    assert (tmp_path / "tried.safetensors").read_bytes() == (tmp_path / "untried.safetensors").read_bytes()
