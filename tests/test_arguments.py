"""Whatever is handed in where something else belongs, every public function ends in one EdakariError."""

import inspect

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.core.method import method_named
from edakari.core.protocols import Schedule
from edakari.core.space import limited
from edakari.criteria import Magnitude, Taylor
from edakari.errors import EdakariError, InfeasibleBudget, RecipeError, UnknownName, UntrustedCode, WrongArgument
from edakari.export import to_onnx, to_program
from edakari.methods.score import ScorePruning
from edakari.models import build
from edakari.pipeline import read_recipe, recipe_from, train_dense
from edakari.pipeline.load import networks
from edakari.report import collect, write_report
from edakari.solve import Knapsack, Threshold
from edakari.testing import check_allocator, check_criterion, check_method, exactness
from edakari.testing.toys import ToyTask, toy_cnn
from edakari.train import distillation, fit, task_objective


class Own:
    """Some class of a user's."""


def function(*args):
    """Some function of a user's."""


WRONG = {
    "none": None,
    "number": 3,
    "class": Own,
    "instance": Own(),
    "function": function,
    "set": {1},
    "bytes": b"x",
    "module": inspect,
}
MODEL, EXAMPLE = toy_cnn(), ToyTask().example()
GRAPH = edakari.trace(MODEL, EXAMPLE)
SCORES = Magnitude().score(MODEL, GRAPH)
PLAN = edakari.allocate(GRAPH, SCORES, "macs<=60%")
SMALL = edakari.apply(MODEL, PLAN)
TASK = ToyTask()
RECIPE = {"model": {"name": "edakari:resnet20", "weights": "random"}, "method": "magnitude", "budget": "macs<=50%"}
CALLS = {
    "trace": (edakari.trace, (MODEL, EXAMPLE)),
    "allocate": (edakari.allocate, (GRAPH, SCORES, "macs<=50%", Threshold())),
    "apply": (edakari.apply, (MODEL, PLAN, GRAPH)),
    "simulate": (edakari.simulate, (MODEL, PLAN, GRAPH)),
    "exactness": (exactness, (MODEL, EXAMPLE, PLAN, GRAPH)),
    "save": (edakari.save, (SMALL, PLAN, "{folder}/net")),
    "load": (edakari.load, ("{folder}/none", MODEL)),
    "build": (edakari.build, ("edakari:resnet2",)),
    "models.build": (build, ("edakari:resnet2",)),
    "to_onnx": (to_onnx, (MODEL, EXAMPLE, "{folder}/x.onnx")),
    "to_program": (to_program, (MODEL, EXAMPLE, "{folder}/x.pt2")),
    "prune": (edakari.prune, (MODEL, EXAMPLE, "macs<=80%")),
    "recalibrate": (edakari.recalibrate, (SMALL, TASK.batches("calibration"))),
    "reconstruct": (edakari.reconstruct, (MODEL, PLAN, TASK.batches("calibration"))),
    "run": (edakari.run, (recipe_from(RECIPE), "{folder}/run")),
    "sweep": (edakari.sweep, ({"recipe": RECIPE, "axes": {"seed": [0, 1]}}, "{folder}/sweep")),
    "compare": (edakari.compare, (["{folder}/none"],)),
    "train_dense": (train_dense, (recipe_from(RECIPE), "{folder}/x.safetensors")),
    "read_recipe": (read_recipe, ("{folder}/none.yaml",)),
    "recipe_from": (recipe_from, (RECIPE,)),
    "collect": (collect, ("{folder}/none",)),
    "write_report": (write_report, ("{folder}/none",)),
    "networks": (networks, ("{folder}/none",)),
    "latency": (edakari.measure_latency, (MODEL, EXAMPLE, "torch")),
    "taylor": (Taylor().score, (MODEL, GRAPH, TASK.batches("calibration"), TASK)),
    "magnitude": (Magnitude().score, (MODEL, GRAPH)),
    "fit": (fit, (MODEL, task_objective(TASK), TASK.batches("train"), Schedule(epochs=0))),
    "task_objective": (task_objective, (TASK,)),
    "distillation": (distillation, (TASK, MODEL)),
    "limited": (limited, (GRAPH.groups,)),
    "register": (edakari.register, ("some name",)),
    "method_named": (method_named, ("magnitud",)),
    "budget": (edakari.Budget.parse, ("macs<=50%",)),
    "check_method": (check_method, (ScorePruning(),)),
    "check_criterion": (check_criterion, (Magnitude(),)),
    "check_allocator": (check_allocator, (Threshold(),)),
}
OPTIONAL = {
    *(("apply", 2), ("simulate", 2), ("exactness", 3), ("load", 1), ("allocate", 3)),
}
"""Arguments that may be None."""
ITERATED = {("taylor", 2), ("fit", 2)}
"""Batches, which may be anything: what is in them is the task's."""
FUNCTIONS = {("fit", 1), ("distillation", 1)}
"""Arguments that may be functions."""
CASES = [
    (name, index, kind)
    for name, (_, arguments) in CALLS.items()
    for index in range(len(arguments))
    for kind in WRONG
    if not (kind == "none" and (name, index) in OPTIONAL)
    and not (kind in ("set", "bytes") and (name, index) in ITERATED)
    and not (kind == "function" and (name, index) in FUNCTIONS)
]


@pytest.mark.parametrize(("name", "index", "kind"), CASES)
def test_an_argument_of_another_kind_is_one_error(tmp_path, monkeypatch, name, index, kind):
    monkeypatch.chdir(tmp_path)
    call, arguments = CALLS[name]
    arguments = [each.format(folder=tmp_path) if isinstance(each, str) else each for each in arguments]
    arguments[index] = WRONG[kind]
    with pytest.raises(EdakariError) as caught:
        call(*arguments)
    assert "Unreadable" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name, (_, arguments) in CALLS.items() if len(arguments) > 1])
def test_swapped_arguments_are_one_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    call, (first, second, *rest) = CALLS[name]
    with pytest.raises(EdakariError):
        call(second, first, *rest)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [edakari.run, train_dense])
def test_a_recipe_may_be_a_file_plain_values_or_a_recipe(content, tmp_path, call, monkeypatch):
    content |= {"budget": "macs<=0.001%", "train": None, "finetune": None, "measure": None}
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(content))
    said = set()
    for recipe in (file, str(file), content, recipe_from(content)):
        with pytest.raises(EdakariError) as caught:
            call(recipe, tmp_path / "out")
        said.add(str(caught.value))
    assert len(said) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(WrongArgument, match="recipe"):
        call(3, tmp_path / "out")
    monkeypatch.setenv("EDAKARI_CONFIG", str(tmp_path / "nothing is trusted"))
    with pytest.raises(UntrustedCode):
        edakari.run(file, tmp_path / "out")
    with pytest.raises(InfeasibleBudget):
        edakari.run(file, tmp_path / "out", trust_code=True)


def test_a_function_in_place_of_a_task_is_named():
    with pytest.raises(WrongArgument, match=r"task takes an object with outputs.* got the function cross_entropy"):
        Taylor().score(MODEL, GRAPH, TASK.batches("calibration"), nn.functional.cross_entropy)


@pytest.mark.parametrize("call", [check_criterion, check_allocator])
@pytest.mark.parametrize("cls", [Magnitude, Knapsack])
def test_a_class_is_told_to_be_made(call, cls):
    with pytest.raises(WrongArgument, match=rf"the class {cls.__name__}; make one of it first: {cls.__name__}\("):
        call(cls)
    with pytest.raises(WrongArgument, match="make one of it first"):
        edakari.allocate(GRAPH, SCORES, "macs<=50%", Knapsack)


def linear():
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, 0.5)
    nn.init.zeros_(model.bias)
    return model


def test_an_objective_may_return_its_loss_as_a_tensor():
    found = []
    for wrapped in (lambda loss: loss, lambda loss: {"loss": loss}, lambda loss: loss.reshape(1)):
        model = linear()
        batches = [torch.ones(4, 2)]
        history = fit(model, lambda net, x, w=wrapped: w(net(x).square().mean()), batches, Schedule(epochs=2))
        found.append((model.weight.tolist(), history.epochs[-1]["loss"]))
    assert found[0] == found[1] == found[2]
    assert found[0][0] != linear().weight.tolist()


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (lambda net, x: None, "but got None"),
        (lambda net, x: {}, "without a loss"),
        (lambda net, x: net(x), r"'loss' must be a tensor with one value, but is a tensor of shape \[4, 1\]"),
        (lambda net, x: net(x).mean().item(), "but got"),
        (lambda net, x: {"a": 1.0}, "'a' must be a tensor"),
        (lambda net, x: [net(x).mean()], "but got a list"),
        (lambda net, x: net(x).mean().detach(), "has a gradient"),
    ],
)
def test_an_objective_that_gives_no_loss_is_told(objective, said):
    with pytest.raises(WrongArgument, match=said):
        fit(linear(), objective, [torch.ones(4, 2)], Schedule(epochs=1))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(
    "made", [build, edakari.build, lambda name: build(recipe_from({**RECIPE, "model": name}).model)]
)
def test_a_network_without_its_source_is_told_which_there_are(made, name):
    with pytest.raises(UnknownName) as caught:
        made(name)
    for part in (f"timm:{name}", f"torchvision:{name}", "FILE.py:FUNCTION"):
        assert part in str(caught.value)


@pytest.mark.parametrize("command", ["inspect", "measure"])
def test_commands_tell_the_sources_of_a_network_too(command):
    found = CliRunner().invoke(app, [command, "resnet18"])
    assert found.exit_code == 1
    (line,) = found.stderr.splitlines()
    assert "did you mean 'timm:resnet18'" in line


def test_a_file_without_its_function_is_told(tmp_path):
    with pytest.raises(UnknownName, match=r"did you mean 'nets\.py:FUNCTION'"):
        build("nets.py")


@pytest.mark.parametrize("example", [([torch.zeros(1, 8, 8)],), "x", [], ()])
def test_latency_takes_tensors(example):
    with pytest.raises(EdakariError):
        edakari.measure_latency(MODEL, example)


@pytest.mark.parametrize("content", [None, [], "x", 3, {"model": 3}, {1: 2}])
def test_a_recipe_of_another_kind_is_a_recipe_error(content):
    with pytest.raises(RecipeError):
        recipe_from(content)
