"""Every method with every kind of task of one's own: it runs, or is refused before anything is measured or pruned."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

import edakari
import edakari.pipeline.stages as stages
from edakari.core.method import METHODS, Job, Outcome
from edakari.core.objective import task_objective
from edakari.core.plan import KeepChannels
from edakari.criteria import Magnitude
from edakari.errors import DataError, RecipeError
from edakari.pipeline.settings import DistillSettings, FinetuneSettings
from edakari.tasks.own import Task
from edakari.testing import ToyTask, toy_cnn, toy_vit

TOY = ToyTask()
BATCHES: list[Any] = list(TOY.batches("train"))[:2]
CLASSES = int(toy_cnn()(TOY.example()).shape[1])
NUMBERS = [(images, torch.randn(len(images), CLASSES)) for images, _ in BATCHES]


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


TASKS: dict[str, dict[str, Any]] = {
    "classes": {"train": BATCHES, "loss": cross_entropy},
    "numbers": {"train": NUMBERS, "loss": lambda model, batch: functional.mse_loss(model(batch[0]), batch[1])},
    "images": {"train": [images for images, _ in BATCHES], "loss": lambda model, batch: model(batch).square().mean()},
    "no training": {"calibration": BATCHES, "loss": cross_entropy},
    "no loss": {"train": BATCHES},
}
TOKENS = {"tome", "evit", "random_tokens", "spvit", "dynamicvit"}
UNTRAINED, UNLABELLED = {"no training", "no loss"}, {"numbers", "images"}
REFUSED: dict[str, set[str]] = {
    "taylor": {"no loss"},
    "sensitivity": {"no loss"},
    "rfc": UNLABELLED,
    "dlrfc": UNLABELLED | UNTRAINED,
    "isp": UNLABELLED | UNTRAINED,
    "ekg": set(TASKS),
    **dict.fromkeys(("smcp", "halp", "spvit", "dynamicvit", "recovery"), UNTRAINED),
    **dict.fromkeys(("gate_search", "gradual_magnitude", "supertickets"), UNTRAINED),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "smcp": {"epochs": 4, "warmup_epochs": 1, "ramp_epochs": 2, "freeze_epochs": 1, "interval": 1},
    "halp": {"epochs": 3, "milestones": 3, "milestone_interval": 1},
    "isp": {"predictor_epochs": 1, "explainer_epochs": 1, "gate_epochs": 1},
    "gate_search": {"epochs": 2},
    "supertickets": {"schedule": {"epochs": 2}},
    "gradual_magnitude": {"epochs": 4},
    "dlrfc": {"trial": {"tolerance": 1e3}},
    "spvit": {"training": {"selector_epochs": 1, "joint_epochs": 1}},
    "dynamicvit": {"training": {"selector_epochs": 1, "joint_epochs": 1}},
    "recovery": {"name": "magnitude", "iterations": 2, "recovery_epochs": 1},
}


class Begun(Exception):
    """The run has come to what takes long."""


def attempt(kind: str, name: str) -> Any:
    """Prune with a task of a kind; a network that the method can prune."""
    model, task = toy_vit() if name in TOKENS else toy_cnn(), Task.of(TOY.example(), **TASKS[kind])
    budget = "sparsity>=20%" if name == "gradual_magnitude" else "macs<=80%"
    return edakari.prune(model, task, budget, method={"name": name, **SETTINGS.get(name, {})}, device="cpu")


def begin(run: Any) -> None:
    raise Begun


@pytest.mark.parametrize("name", [*METHODS.choices(), "recovery"])
def test_a_method_refuses_the_tasks_that_do_not_serve_it_before_anything(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "measured_latencies", begin)
    for kind in TASKS:
        with pytest.raises(DataError if kind in REFUSED.get(name, ()) else Begun):
            attempt(kind, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS.choices(), "recovery"])
@pytest.mark.parametrize("kind", TASKS)
def test_a_method_runs_with_the_tasks_that_it_does_not_refuse(kind: str, name: str) -> None:
    if kind not in REFUSED.get(name, ()):
        result = attempt(kind, name)
        assert result.plan.masks() or result.costs["macs"] <= 0.8 * result.report["networks"][0]["costs"]["macs"]


class OwnObjective:
    """Prunes by magnitude, and brings its own objective of the fine-tuning."""

    paper: ClassVar[str] = ""
    emits: ClassVar[frozenset[type]] = frozenset({KeepChannels})

    def prune(self, job: Job) -> Outcome:
        plan = job.allocate(Magnitude().score(job.model, job.graph))
        own = task_objective(job.task)

        def tripled(model: nn.Module, batch: Any) -> Any:
            return {name: 3 * term for name, term in own(model, batch).items()}

        return Outcome(plan, edakari.apply(job.model, plan), finetune=tripled)


@pytest.mark.parametrize(
    "asked",
    [
        {"teacher": "bank"},
        {"distill": DistillSettings(weight=0.5)},
        {"distill": DistillSettings(features={"stem": 1.0})},
    ],
    ids=str,
)
def test_a_methods_own_objective_and_a_teacher_exclude_each_other(asked: Any) -> None:
    with pytest.raises(RecipeError, match=r"objective of its own.* finetune\.distill and finetune\.teacher; leave"):
        edakari.prune(toy_cnn(), TOY, "macs<=80%", OwnObjective(), finetune=FinetuneSettings(epochs=1, **asked))


def test_a_methods_own_objective_is_the_loss_of_the_fine_tuning() -> None:
    losses = []
    for method in (OwnObjective(), "magnitude"):
        result = edakari.prune(
            toy_cnn(), TOY, "macs<=80%", method, finetune=FinetuneSettings(epochs=1, lr=1e-9), seed=0
        )
        losses.append(result.report["epochs"][0]["loss"])
    assert losses[0] == pytest.approx(3 * losses[1], rel=1e-3)
