"""Modes of modules are as they were after every public call, one by one: a training network may have frozen layers."""

from __future__ import annotations

import contextlib
import copy
import dataclasses as dc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.modes import eval_mode, preserve_modes
from edakari.core.plan import Plan
from edakari.core.protocols import Schedule
from edakari.criteria import (
    BatchNormScale,
    FeatureDiscrimination,
    GeometricMedian,
    Magnitude,
    Random,
    ResponseSettings,
    Taylor,
)
from edakari.errors import EdakariError
from edakari.export import to_program
from edakari.export.check import module_outputs
from edakari.export.onnx_model import write_onnx
from edakari.graph import trace
from edakari.latency import runtimes
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, measure
from edakari.methods.saliency.explaining import PredictorSettings, fit_predictor
from edakari.methods.spvit import SoftTokenPruning
from edakari.methods.tokens.training import calibrate
from edakari.models.saliency import Frame
from edakari.surgery.tokens import attach, token_layout, token_sites
from edakari.tasks.splits import evaluating
from edakari.testing import ToyTask, enlivened, exactness, random_plan, toy_cnn, toy_fit, toy_job, toy_vit
from edakari.testing.formula_runtime import FormulaRuntime
from edakari.train import FitSettings, batch_statistics, fit, recalibrate_, task_objective
from edakari.train.best import judging

TASK = ToyTask(images=16, batch=8)
EXAMPLE = TASK.example()
BATCH = next(iter(TASK.batches("val")))
ONCE = RunSettings(warmup=0)


def tiny() -> nn.Module:
    """With what a training network has: dropout, and a batch normalisation whose statistics are frozen."""
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def selecting() -> nn.Module:
    model = toy_vit()
    sites = token_sites(model, EXAMPLE)
    return attach(model, SoftTokenPruning(blocks=(1,)).design(sites).edits((8,)), EXAMPLE)


def raising(*args: Any) -> Any:
    raise EdakariError("on purpose")


class Broken(FormulaRuntime):
    """Does not run the second network."""

    def prepare(self, model: nn.Module, example: torch.Tensor, settings: RunSettings) -> Callable[[], None]:
        """See `Runtime.prepare`."""
        return raising if self.opened else super().prepare(model, example, settings)


def half_plan(model: nn.Module) -> Plan:
    return random_plan(trace(model, EXAMPLE))


def saved(model: nn.Module, path: Path) -> None:
    unpruned = dc.replace(half_plan(model), edits=())
    edakari.save(model, unpruned, path, base=copy.deepcopy(model))


def timed(model: nn.Module, settings: RunSettings) -> None:
    measure({"a": model}, EXAMPLE, runtime_named("torch"), settings=settings, repeats=1)


def trained(model: nn.Module, objective: Any, evaluate: Any = None) -> None:
    settings = FitSettings(device="cpu", progress=False)
    once = Schedule(epochs=1, lr=0.01)
    fit(model, objective, list(TASK.batches("train")), once, settings=settings, evaluate=evaluate)


def scored(criterion: Any) -> Callable[[nn.Module, Path], Any]:
    return lambda model, path: criterion.score(model, trace(model, EXAMPLE), TASK.batches("calibration"), TASK)


def predicted(model: nn.Module) -> None:
    once = Schedule(epochs=1, lr=0.01)
    settings = PredictorSettings(
        schedule=once, start="pretrained", family="radial", widths=(0.1, 0.5), temperature=1.0, fraction=0.2
    )
    fit_predictor(dc.replace(toy_job(model), model=model), Frame(16, 16), settings)


def inside(scope: Callable[[nn.Module], contextlib.AbstractContextManager[None]]) -> Callable[[nn.Module, Path], Any]:
    def called(model: nn.Module, path: Path) -> None:
        with scope(model):
            assert not model.training
            raising()

    return called


CALLS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Path], Any]]] = {
    "trace": (toy_cnn, lambda model, path: trace(model, EXAMPLE)),
    "apply": (toy_cnn, lambda model, path: edakari.apply(model, half_plan(model))),
    "simulate": (toy_cnn, lambda model, path: edakari.simulate(model, half_plan(model)).eval()),
    "exactness": (toy_cnn, lambda model, path: exactness(model, EXAMPLE, half_plan(model))),
    "enlivened": (toy_cnn, lambda model, path: enlivened(model)),
    "save": (toy_cnn, lambda model, path: saved(model, path)),
    "evaluate": (toy_cnn, lambda model, path: TASK.evaluate(model)),
    "evaluating, failing": (toy_cnn, inside(evaluating)),
    "judging, failing": (toy_cnn, inside(judging)),
    "batch_statistics, failing": (toy_cnn, inside(batch_statistics)),
    "module_outputs": (tiny, lambda model, path: module_outputs(model, EXAMPLE)),
    "module_outputs that fail": (tiny, lambda model, path: module_outputs(model, EXAMPLE[:, :1])),
    "measure": (tiny, lambda model, path: timed(model, ONCE)),
    "measure in bf16": (tiny, lambda model, path: timed(model, dc.replace(ONCE, precision="bf16"))),
    "measure that fails": (
        tiny,
        lambda model, path: measure({"a": model, "b": model}, EXAMPLE, Broken(opened=[None]), settings=ONCE, repeats=1),
    ),
    "latency": (
        toy_cnn,
        lambda model, path: edakari.measure_latency(model, EXAMPLE, "formula", networks=0, cache=path),
    ),
    "to_program": (tiny, lambda model, path: to_program(model, EXAMPLE, path / "x.pt2")),
    "write_onnx": (tiny, lambda model, path: write_onnx(model, EXAMPLE, path / "x.onnx")),
    "write_onnx that fails": (tiny, lambda model, path: write_onnx(model, EXAMPLE[:, :1], path / "x.onnx")),
    "BatchNormScale": (toy_cnn, scored(BatchNormScale())),
    "FeatureDiscrimination": (toy_cnn, scored(FeatureDiscrimination(responses=ResponseSettings(images=16)))),
    "GeometricMedian": (toy_cnn, scored(GeometricMedian())),
    "Magnitude": (toy_cnn, scored(Magnitude())),
    "Random": (toy_cnn, scored(Random())),
    "Taylor": (toy_cnn, scored(Taylor())),
    "fit": (tiny, lambda model, path: trained(model, task_objective(TASK), TASK.evaluate)),
    "fit that fails": (tiny, lambda model, path: trained(model, raising)),
    "toy_fit": (tiny, lambda model, path: toy_fit(model, task_objective(TASK), Schedule(epochs=1, lr=0.01))),
    "recalibrate_": (toy_cnn, lambda model, path: recalibrate_(model, TASK.outputs, TASK.batches("calibration"))),
    "prune tokens": (toy_vit, lambda model, path: edakari.prune(model, EXAMPLE, "macs<=80%", method="tome")),
    "token_layout": (toy_vit, lambda model, path: token_layout(model, EXAMPLE)),
    "calibrate": (selecting, lambda model, path: calibrate(model, TASK.outputs, list(TASK.batches("calibration")))),
    "fit_predictor": (tiny, lambda model, path: predicted(model)),
}
CHANGING = ("fit", "fit that fails", "toy_fit", "recalibrate_", "calibrate")
"""What is asked to change weights or buffers."""


def partly_frozen(model: nn.Module) -> nn.Module:
    """In training mode, but for every second module that has no children and for one that has some."""
    model.train()
    for module in [module for module in model.modules() if not list(module.children())][1::2]:
        module.eval()
    next(module for module in model.children() if list(module.children())).training = False
    return model


@pytest.mark.parametrize("name", CALLS)
def test_public_calls_leave_the_mode_of_each_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "latency":
        runtime = FormulaRuntime()
        monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
        monkeypatch.setattr("edakari.latency.timing.time", runtime)
    make, called = CALLS[name]
    model = partly_frozen(make())
    modes = {path: module.training for path, module in model.named_modules()}
    assert len(set(modes.values())) == 2
    state = {path: value.clone() for path, value in model.state_dict().items()}
    try:
        called(model, tmp_path)
    except EdakariError:
        assert "fail" in name
    else:
        assert "fail" not in name
    assert {path: module.training for path, module in model.named_modules()} == modes
    if name not in CHANGING:
        assert all(torch.equal(value, state[path]) for path, value in model.state_dict().items())


class Merging(nn.Linear):
    """Like an adapter that is merged into the weight for evaluation, and taken out for training."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        """Merge or take apart."""
        self.merged = not mode
        super().train(mode)
        return self


def test_modules_that_act_on_a_change_of_mode_are_told() -> None:
    model = nn.Sequential(Merging(2, 2), Merging(2, 2)).train()
    model[1].eval()
    with eval_mode(model):
        assert [model[0].merged, model[1].merged] == [True, True]
    assert [model[0].merged, model[1].merged] == [False, True]
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


def test_shared_modules_and_networks_that_overlap_come_back() -> None:
    shared = nn.BatchNorm1d(2)
    first, second = nn.Sequential(shared, nn.ReLU()).train(), nn.Sequential(nn.ReLU(), shared)
    second[0].eval()
    modules = (first, shared, first[1], second, second[0])
    with contextlib.suppress(EdakariError), eval_mode(first, second):
        assert not any(module.training for module in modules)
        raising()
    assert [module.training for module in modules] == [True, True, True, True, False]


def test_preserving_alone_changes_nothing_inside() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Dropout()).train()
    model[0].eval()
    with preserve_modes(model):
        assert [model.training, model[0].training, model[1].training] == [True, False, True]
        model.eval()
    assert [model.training, model[0].training, model[1].training] == [True, False, True]
