"""Tasks that are said in Python are tasks like those of recipes."""

from __future__ import annotations

import dataclasses as dc

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import edakari
import edakari.methods
from edakari.core.method import method_named
from edakari.core.objective import task_objective
from edakari.core.protocols import Schedule
from edakari.criteria import Taylor
from edakari.errors import DataError, ModelError, WrongArgument
from edakari.tasks.own import Task
from edakari.testing import ToyTask, toy_cnn, toy_job
from edakari.train import fit

TOY = ToyTask()


def cross_entropy(model, batch):
    images, labels = batch
    return functional.cross_entropy(model(images), labels)


def accuracy(model, batches):
    assert not model.training
    assert not torch.is_grad_enabled()
    found = [(model(images).argmax(1) == labels).float() for images, labels in batches]
    return {"accuracy": torch.cat(found).mean()}


def own(**changes) -> Task:
    parts = {
        "train": TOY.batches("train"),
        "calibration": TOY.batches("calibration"),
        "val": TOY.batches("val"),
        "loss": cross_entropy,
        "evaluate": accuracy,
    }
    return Task.of(TOY.example(), **{**parts, **changes})


def test_it_scores_trains_and_judges_as_the_same_task_does_otherwise() -> None:
    model, task = toy_cnn(), own()
    graph = edakari.trace(model, task.example())
    ours, theirs = (Taylor().score(model, graph, each.batches("calibration"), each) for each in (task, TOY))
    assert all(torch.equal(score, theirs[name]) for name, score in ours.items())
    trained = [toy_cnn(), toy_cnn()]
    for network, each in zip(trained, (task, TOY), strict=True):
        fit(network, task_objective(each), each.batches("train"), Schedule(epochs=1, lr=0.05))
    assert all(torch.equal(one, other) for one, other in zip(*(net.parameters() for net in trained), strict=True))
    assert task.evaluate(trained[0])["accuracy"] == pytest.approx(TOY.evaluate(trained[1])["accuracy"])
    assert task.metric == "accuracy"


SHORT = {"epochs": 4, "warmup_epochs": 1, "ramp_epochs": 2, "freeze_epochs": 1, "interval": 2}


@pytest.mark.parametrize(("name", "settings"), [("magnitude", {}), ("taylor", {}), ("smcp", SHORT)])
def test_methods_plan_by_it_as_by_the_same_task_otherwise(name, settings) -> None:
    plans = []
    for task in (own(), TOY):
        job = dc.replace(toy_job(toy_cnn(), "macs<=60%"), task=task)
        plans.append(method_named(name)(**settings).prune(job).plan)
    assert plans[0].sizes() == plans[1].sizes()
    assert plans[0].digest() == plans[1].digest()


class Detector(nn.Module):
    """Gives its losses itself, and only in training; takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x, targets=None):
        found = self.head(self.body(x).relu())
        return {"box": found.square().mean(), "cls": (found - targets).abs().mean()} if self.training else found


def test_a_loss_may_ask_for_more_than_outputs() -> None:
    def loss(model, batch):
        was, _ = model.training, model.train()
        try:
            return model(batch["x"], batch["y"])
        finally:
            model.train(was)

    batches = [{"x": torch.randn(3, 4), "y": torch.randn(3, 2)}]
    model, task = Detector().eval(), Task.of(torch.zeros(1, 4), train=batches, loss=loss)
    graph = edakari.trace(model, task.example())
    scores = Taylor().score(model, graph, task.batches("calibration"), task)
    assert float(scores["body"].std()) > 0
    before = model.head.weight.clone()
    fit(model, task_objective(task), task.batches("train"), Schedule(epochs=1))
    assert not torch.equal(before, model.head.weight)
    # where a method has nothing but outputs
    plain = Task.of(
        torch.zeros(1, 4), train=batches, loss=lambda net, batch: (net(batch["x"]) - batch["y"]).abs().mean()
    )
    outputs = torch.randn(3, 2, requires_grad=True)
    assert plain.loss(outputs, batches[0])["loss"] == (outputs - batches[0]["y"]).abs().mean()
    bodily = Task.of(torch.zeros(1, 4), train=batches, loss=lambda net, batch: net.head(net.body(batch["x"])).mean())
    with pytest.raises(ModelError, match="asks for 'head' of the network"):
        bodily.loss(outputs, batches[0])


@pytest.mark.parametrize(
    ("example", "batch"),
    [
        (torch.zeros(1, 4), torch.ones(2, 4)),
        (torch.zeros(1, 4), (torch.ones(2, 4), torch.zeros(2))),
        ((torch.zeros(1, 4),), [torch.ones(2, 4), torch.zeros(2)]),
        ({"x": torch.zeros(1, 4)}, {"x": torch.ones(2, 4), "targets": torch.ones(2, 2)}),
        ({"x": torch.zeros(1, 4)}, ({"x": torch.ones(2, 4)}, torch.zeros(2))),
    ],
)
def test_the_network_gets_what_the_example_shows(example, batch) -> None:
    model = Detector().eval()
    assert torch.equal(Task.of(example).outputs(model, batch), model(torch.ones(2, 4)))


def test_figures_have_names_and_the_larger_one_is_the_better() -> None:
    model = toy_cnn().train()
    errors = own(evaluate=lambda net, batches: {"loss": 0.25, "extra": 1}, larger_is_better=False)
    assert errors.evaluate(model) == {"minus_loss": -0.25, "loss": 0.25, "extra": 1.0}
    assert errors.metric == "minus_loss"
    assert model.training
    assert own(evaluate=lambda net, batches: torch.tensor(0.5)).evaluate(model) == {"score": 0.5}
    assert Task.of(TOY.example()).evaluate(model) == {}
    for wrong in (None, "good", {}, {"accuracy": "high"}):
        with pytest.raises(WrongArgument, match="a dict of named numbers"):
            own(evaluate=lambda net, batches, wrong=wrong: wrong).evaluate(model)


def test_a_part_of_the_training_data_calibrates() -> None:
    batches = [torch.full((2, 4), float(index)) for index in range(40)]
    task = Task.of(torch.zeros(1, 4), train=batches)
    assert [float(batch[0, 0]) for batch in task.batches("calibration")] == list(range(16))
    assert len(list(task.batches("calibration"))) == 16, "again and again"
    assert list(task.batches("val")) == []
    loader = DataLoader(TensorDataset(torch.randn(10, 4)), batch_size=4)
    assert len(list(Task.of(torch.zeros(1, 4), train=loader).batches("calibration"))) == 3


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"train": iter([1])}, DataError, "train can be gone through only once"),
        ({"val": (batch for batch in ())}, DataError, "val can be gone through only once"),
        ({"train": 3}, WrongArgument, "train takes a Iterable"),
        ({"loss": 3}, WrongArgument, "loss takes an object with __call__"),
        ({"evaluate": None}, DataError, "'evaluate' is missing|evaluate is missing"),
        ({"val": None}, DataError, "val is missing"),
    ],
)
def test_parts_of_another_kind_are_told(changes, error, said) -> None:
    with pytest.raises(error, match=said):
        own(**changes)


def test_a_task_without_a_loss_says_so_when_one_is_needed() -> None:
    task = own(loss=None)
    with pytest.raises(DataError, match="no loss"):
        Taylor().score(toy_cnn(), edakari.trace(toy_cnn(), task.example()), task.batches("calibration"), task)
