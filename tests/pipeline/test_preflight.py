"""What cannot be done here is told before anything runs, all of it at once, with keys and lines."""

import contextlib
import datetime
import os

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import edakari
import edakari.pipeline.processes as processes_module
from edakari.cli.main import app
from edakari.core.processes import Processes
from edakari.errors import DataError, MeasurementError, RecipeError
from edakari.latency.runtimes import RUNTIMES, runtime_named
from edakari.latency.timing import RunSettings, measure
from edakari.models.trust import remember
from edakari.pipeline import read_recipe, recipe_from, train_dense
from edakari.pipeline.yaml_file import override

MANY = 10_000


@pytest.fixture
def still(monkeypatch):
    """A machine without CUDA, on which no network may run."""

    def called(*args, **kwargs):
        raise AssertionError("a network ran")

    monkeypatch.setattr(nn.Module, "__call__", called)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


HERE = {
    "finetune.precision=fp16": "finetune.precision",
    "method={name: smcp, precision: fp16}": "method.precision",
    "method={name: halp, precision: fp16}": "method.precision",
    "method={name: gate_search, precision: fp16}": "method.precision",
    "method={name: supertickets, schedule: {precision: fp16}}": r"method\.schedule\.precision: 'fp16' trains",
    "method={name: supertickets, schedule: {optimizer_options: {x: 1}}}": r"method\.schedule\.optimizer_options\.x: ",
    f"measure.threads={MANY}": "measure.threads",
    "measure.runtimes=[openvino]": r"measure.runtimes\[0\]",
    "measure.runtimes=[torch, torch_compile]": r"measure.runtimes\[1\]",
    "export=[onnx]": "export",
    "data.batch_size=2": "data.batch_size",
    "data.batch_size=4": "data.batch_size",
    "finetune={teacher: bank, bank: {folder: /proc/edakari}}": "finetune.bank.folder",
}
SPARSE = {
    "method={name: gradual_magnitude, epochs: 8}": r"method\.epochs: 8 epochs with masks every 2 .*raise epochs to 18",
    "method={name: supertickets, schedule: {epochs: 24}}": r"method\.schedule\.epochs: .*a sparsity of 0%.*to 2",
    "method={name: supertickets, search: {free_epochs: 350}}": r"method\.search\.free_epochs: ",
}
TIMED = {
    "latency.device=cuda": "latency.device",
    f"latency.threads={MANY}": "latency.threads",
    "latency.precision=fp16": "latency.runtime",
    "latency.memory_format=channels_last": "latency.runtime",
    "latency={runtime: openvino, device: cuda}": "latency.device",
    "latency.cache=/proc/edakari": "latency.cache",
}


class OneOfThree(Processes):
    """The only process that there is, which says that it is one of three."""

    def wait(self):
        """There is nobody to wait for."""

    def from_main(self, make):
        return make()

    def ending_together(self):
        """There is nobody to end with."""
        return contextlib.nullcontext()


def bare(monkeypatch):
    """A machine of three processes on which nothing else is installed."""
    found = __import__("importlib.util").util.find_spec
    gone = ("onnx", "onnxscript", "onnxruntime", "openvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in gone else found(name, *rest))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(processes_module, "started", lambda *, cpu: OneOfThree(world=3))


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("setting", [*HERE, *SPARSE, *TIMED])
def test_what_cannot_be_done_here_is_told_before_anything_runs(content, tmp_path, monkeypatch, setting):
    if setting in TIMED:
        content["budget"] = "latency<=60%"
    if setting in SPARSE:
        content["budget"] = "sparsity>=90%"
    if not setting.startswith("data."):
        content["data"]["batch_size"] = 15
    recipe = recipe_from(override(content, [setting]))
    bare(monkeypatch)
    with pytest.raises(RecipeError, match={**HERE, **SPARSE, **TIMED}[setting]):
        edakari.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("still")
def test_all_of_it_is_told_at_once_with_lines(content, tmp_path, monkeypatch):
    content["train"] = {"epochs": 1, "precision": "fp16"}
    path = tmp_path / "my.yaml"
    changed = override(content, ["finetune.precision=fp16", f"measure.threads={MANY}", "export=[onnx]"])
    path.write_text(yaml.safe_dump(changed, sort_keys=False))
    lines = path.read_text().splitlines()
    recipe = read_recipe(path, trust_code=True)
    bare(monkeypatch)
    with pytest.raises(RecipeError) as caught:
        edakari.run(recipe, tmp_path / "run")
    head, *problems = str(caught.value).splitlines()
    assert head == f"{path} has 4 problems:"
    for key in ("precision: fp16", "batch_size: 16", "threads: 10000", "export:"):
        line = next(number for number, text in enumerate(lines, 1) if key in text)
        assert any(f"{path}:{line}: " in problem for problem in problems), key
    with pytest.raises(RecipeError, match=r"train\.precision(.|\n)*data\.batch_size"):
        train_dense(recipe, tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("x.*"))


def test_what_only_finished_stages_needed_may_be_gone(content, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    recipe = recipe_from(override(content, ["measure.threads=2"]))
    edakari.run(recipe, tmp_path / "run")
    bare(monkeypatch)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert not edakari.run(recipe, tmp_path / "run").fresh
    (tmp_path / "run" / "stages" / "measure.json").unlink()
    with pytest.raises(RecipeError, match=r"measure\.threads"):
        edakari.run(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("options.when", datetime.date(2020, 1, 1)),
        ("options.some", {1, 2}),
        ("options.raw", b"x"),
        ("options.far", float("inf")),
        ("options.none", float("nan")),
        (r"options\.deep\.inner\[1\]", {"inner": [1, b"x"]}),
        ("options.named", {1: 2}),
        ("options.built", nn.Identity()),
    ],
)
def test_options_that_no_run_folder_can_hold_are_refused(content, key, value):
    name = key.replace("\\", "").split(".")[1].partition("[")[0]
    with pytest.raises(RecipeError, match=rf"model\.{key}"):
        recipe_from({**content, "model": {**content["model"], "options": {name: value}}})


@pytest.mark.parametrize("task", ["segmentation", "multilabel"])
@pytest.mark.parametrize("wanted", [{"views": 2}, {"teacher": "bank"}])
def test_views_and_banks_need_classes(content, task, wanted):
    content["data"]["task"] = task
    content["finetune"] = {**content["finetune"], "distill": None, **wanted}
    with pytest.raises(RecipeError, match=rf"finetune\.{next(iter(wanted))}: .* needs data\.task 'classification'"):
        recipe_from(content)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("runtime", [*RUNTIMES])
def test_runtimes_say_what_they_cannot_do_before_they_are_given_a_network(monkeypatch, runtime):
    for settings in (RunSettings(threads=MANY), RunSettings(device="cuda")):
        with pytest.raises(MeasurementError, match=r"threads|device"):
            measure({"dense": nn.Linear(2, 2)}, torch.zeros(1, 2), runtime_named(runtime), settings=settings)
    if runtime != "torch":
        bare(monkeypatch)
        with pytest.raises(MeasurementError, match="install"):
            measure({"dense": nn.Linear(2, 2)}, torch.zeros(1, 2), runtime_named(runtime))


@pytest.mark.usefixtures("still")
def test_measure_says_all_that_it_cannot_do_here_in_one_line(tmp_path, monkeypatch):
    bare(monkeypatch)
    remember(f"{tmp_path}/nets.py:tiny")
    found = CliRunner().invoke(app, ["measure", "edakari:resnet20", "--threads", str(MANY)])
    assert found.exit_code == 1
    (line,) = found.stderr.splitlines()
    assert "--threads" in line
    assert "onnxruntime" in line


def test_few_images_that_do_not_divide_are_told_before_anything_is_pruned(content, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "here", lambda device=None: OneOfThree(0, 5))
    content["data"]["batch_size"] = 100  # of 48 images
    with pytest.raises(DataError, match="48 images does not divide among 5 processes"):
        edakari.run(recipe_from(content), tmp_path / "run")
    assert not (tmp_path / "run").exists()
