"""Tasks of a user's own through every stage: loaders of any form, budgets in ms, interruptions, recipes, checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset

import edakari
import edakari.pipeline.context as context
from edakari.core.protocols import Schedule
from edakari.models.trust import remember
from edakari.pipeline import checking, recipe_from
from edakari.pipeline.checking import check_recipe
from edakari.pipeline.settings import LatencySettings
from edakari.tasks.own import Task

X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0).long()


class Two(nn.Module):
    """Takes two images and, as networks of other libraries do, labels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.head = nn.Linear(16, 2)

    def forward(self, left: Any, right: Any = None, labels: Any = None) -> Any:
        found = self.body(left) if right is None else self.body(left) + self.body(right)
        logits = self.head(found.mean((2, 3)))
        return (
            {"logits": logits}
            if labels is None
            else {"loss": functional.cross_entropy(logits, labels), "logits": logits}
        )


class Items(Dataset[Any]):
    """A map-style data set without a word about its classes."""

    def __init__(self, form: str) -> None:
        self.form = form

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        x, y = X[index], int(Y[index])
        forms = {
            "pairs": (x, y), "two": (x, x.flip(2), y), "dict": {"image": x, "target": y, "name": str(index)},
            "hugging": {"left": x, "labels": y}, "nested": ({"left": x}, y), "meta": {"meta": {"pixels": x}, "y": y},
        }  # fmt: skip
        return forms[self.form]


class Stream(IterableDataset[Any]):
    """Items in order, without indices; batches of it have a length."""

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Any:
        return iter(Items("pairs")[index] for index in range(len(X)))


FORMS: dict[str, tuple[Any, Any, Any, Any]] = {
    # example, from a batch to images and labels, further arguments of Task.of, what a loader loads
    "pairs": (X[:1], lambda b: (b[0], b[1]), {}, Items("pairs")),
    "two": ((X[:1], X[:1]), lambda b: (b[:2], b[2]), {}, Items("two")),
    "dict": (X[:1], lambda b: (b["image"], b["target"]), {}, Items("dict")),
    "hugging": ({"left": X[:1]}, lambda b: (b["left"], b["labels"]), {}, Items("hugging")),
    "nested": ({"left": X[:1]}, lambda b: (b[0]["left"], b[1]), {}, Items("nested")),
    "meta": (X[:1], lambda b: (b["meta"]["pixels"], b["y"]), {"inputs": lambda b: b["meta"]["pixels"]}, Items("meta")),
    "stream": (X[:1], lambda b: (b[0], b[1]), {}, Stream()),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return Two().eval()


def tasked(form: str = "pairs", **more: Any) -> Task:
    example, parts, others, data = FORMS[form]
    loader: DataLoader[Any] = DataLoader(data, 8, shuffle=form == "pairs")

    def loss(model: nn.Module, batch: Any) -> Any:
        images, labels = parts(batch)
        given = images if isinstance(images, list | tuple) else (images,)
        return model(*given, labels=labels)["loss"]

    def evaluate(model: nn.Module, batches: Any) -> dict[str, Any]:
        found = []
        for images, labels in map(parts, batches):
            logits = model(*images) if isinstance(images, list | tuple) else model(images)
            found.append((logits["logits"].argmax(1) == labels).float())
        return {"accuracy": torch.cat(found).mean()}

    return Task.of(example, train=loader, val=loader, loss=loss, evaluate=evaluate, **{**others, **more})


@pytest.mark.parametrize("form", FORMS)
def test_loaders_of_any_form_reach_the_end(form: str) -> None:
    task = tasked(form, teacher="dense", features={"body.4": 0.1})
    result = edakari.prune(
        network(), task, "macs<=60%", method="taylor", finetune=Schedule(epochs=2, lr=0.05), reconstruct=True
    )
    assert result.costs["macs"] <= 0.6 * result.report["networks"][0]["costs"]["macs"]
    assert result.report["metric"] == "accuracy"
    assert set(result.results.finetune.epochs[0]) >= {"loss", "features.body.4", "val_accuracy"}


def test_a_budget_in_milliseconds_and_a_report(tmp_path: Path) -> None:
    settings = LatencySettings(
        runtime="torch", repeats=10, warmup=0, spread=5.0, cache=str(tmp_path / "tables"), networks=4
    )
    result = edakari.prune(
        network(), tasked(), "latency<=95%", method="taylor", finetune=Schedule(epochs=1, lr=0.01), latency=settings,
        output=tmp_path / "run", groups={"round_to": 1},
    )  # fmt: skip
    assert result.results.latency.planned.keys() == {"latency"}
    assert "accuracy" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


class Killed(Exception):
    pass


def test_a_run_that_was_stopped_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pruned(folder: str) -> Any:
        torch.manual_seed(3)  # which a loader's order follows
        task, tuning = tasked(teacher="dense", distill="kl"), Schedule(epochs=3, lr=0.05)
        return edakari.prune(network(), task, "macs<=60%", method="taylor", finetune=tuning, output=tmp_path / folder)

    whole, fit = pruned("whole"), context.fit

    def stopped(*args: Any, evaluate: Any = None, **keywords: Any) -> Any:
        calls: list[int] = []

        def once(model: nn.Module) -> Any:
            calls.append(1)
            if len(calls) > 1:
                raise Killed
            return evaluate(model)

        return fit(*args, evaluate=once, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(context, "fit", stopped)
        with pytest.raises(Killed):
            pruned("parts")
    result = pruned("parts")
    state = result.model.state_dict()
    assert result.plan == whole.plan
    assert all(torch.equal(value, state[name]) for name, value in whole.model.state_dict().items())
    assert not pruned("parts").fresh


OWN = """
import torch
from tests.pipeline.test_any_task import network as make, tasked


def task(form: str = "dict", weight: float = 1.0):
    return tasked(form, classes=["dark", "bright"])
"""


def test_a_recipe_names_a_function_that_returns_a_task(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    for name in ("task", "make"):
        remember(f"{tmp_path}/own.py:{name}")
    recipe = recipe_from({
        "model": {"name": f"{tmp_path}/own.py:make", "weights": "random"},
        "data": {"task": {"name": f"{tmp_path}/own.py:task", "form": "two"}},
        "method": "taylor", "budget": "macs<=60%", "device": "cpu", "recalibrate": 2,
        "finetune": {"epochs": 1, "lr": 0.05, "distill": {"weight": 0.5, "features": {"body.4": 0.1}}},
    })  # fmt: skip
    assert check_recipe(recipe).costs["macs"] > 0
    edakari.run(recipe, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["metric"] == "accuracy"
    assert {"loss", "distillation", "features.body.4"} <= set(report["epochs"][0])
    assert json.loads((tmp_path / "run" / "task.json").read_text(encoding="utf-8"))["classes"] == ["dark", "bright"]


@pytest.mark.parametrize(("quick", "most"), [(0.0, 2), (9.0, 10)])
def test_a_check_of_a_slow_network_runs_it_on_few_batches(
    quick: float, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    for name in ("task", "make"):
        remember(f"{tmp_path}/own.py:{name}")
    recipe = recipe_from({
        "model": {"name": f"{tmp_path}/own.py:make", "weights": "random"}, "device": "cpu",
        "data": {"task": f"{tmp_path}/own.py:task"}, "method": "magnitude", "budget": "macs<=60%",
        "finetune": {"epochs": 3},
    })  # fmt: skip
    runs: list[Any] = []
    monkeypatch.setattr(checking, "QUICK", quick)
    monkeypatch.setattr(Task, "objective", counted(runs, Task.objective))
    monkeypatch.setattr(Task, "outputs", counted(runs, Task.outputs))
    seconds = check_recipe(recipe).seconds
    assert 0 < len(runs) <= most
    assert seconds["fine-tuning"] > 0
    assert seconds["evaluation"] > 0


def counted(runs: list[Any], function: Any) -> Any:
    def asked(*args: Any) -> Any:
        runs.append(function)
        return function(*args)

    return asked
