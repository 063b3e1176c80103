"""ISP over a minute: the explainer finds what was put into the images, and gates find the channels that do nothing."""

from __future__ import annotations

import copy
import dataclasses as dc
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import edakari
from edakari.core.method import Job
from edakari.core.protocols import Schedule
from edakari.cost import dense
from edakari.graph.taps import find_taps
from edakari.methods.isp import InterpretationSteeredPruning
from edakari.methods.saliency.explained import Explained
from edakari.methods.saliency.explaining import (
    ExplainerSettings,
    PredictorSettings,
    fit_explainer,
    fit_predictor,
)
from edakari.methods.saliency.gating import Gated
from edakari.models.saliency import Frame
from edakari.train import FitSettings, fitter

SIDE, PATTERN, CLASSES, BATCH = 16, 5, 4, 32
WIDTHS = (8, 16, 24)


@functools.cache
def planted(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images with a pattern of signs of their class at a random place in noise, labels, and the pattern's centres."""
    signs = torch.randn(CLASSES, PATTERN, PATTERN, generator=torch.Generator().manual_seed(99)).sign()
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    corners = torch.randint(0, SIDE - PATTERN + 1, (count, 2), generator=generator)
    images = 0.3 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    for image, label, (row, column) in zip(images, labels, corners, strict=True):
        image[0, row : row + PATTERN, column : column + PATTERN] += signs[label]
    return images, labels, corners + PATTERN // 2


@dc.dataclass(frozen=True)
class Planted:
    """The task of naming the pattern."""

    metric: str = "top1"

    def example(self) -> torch.Tensor:
        return torch.zeros(1, 1, SIDE, SIDE)

    def batches(self, split: str) -> Sequence[Any]:
        count, seed = {"train": (1600, 0), "calibration": (640, 1), "val": (640, 2)}[split]
        images, labels, _ = planted(count, seed)
        return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))

    def outputs(self, model: nn.Module, batch: Any) -> torch.Tensor:
        logits: torch.Tensor = model(batch[0])
        return logits

    def loss(self, outputs: torch.Tensor, batch: Any) -> Mapping[str, torch.Tensor]:
        return {"cross_entropy": functional.cross_entropy(outputs, batch[1])}

    def evaluate(self, model: nn.Module, split: str = "val") -> Mapping[str, float]:
        model.eval()
        with torch.no_grad():
            right = [model(images).argmax(1) == labels for images, labels in self.batches(split)]
        return {"top1": float(torch.cat(right).float().mean())}


def network(widths: Iterable[int]) -> nn.Module:
    layers: list[nn.Module] = []
    before = 1
    for index, width in enumerate(widths):
        layers += [nn.Conv2d(before, width, 3, 1 if index == 0 else 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))


def job_of(model: nn.Module, budget: str, folder: Path) -> Job:
    task: Any = Planted()
    graph = edakari.trace(model, task.example())
    limits = edakari.Budget.parse(budget).absolute(dense(graph))
    fit = fitter(task, FitSettings(device="cpu", progress=False))
    return Job(copy.deepcopy(model), graph, graph.groups, task, limits, fit, artifacts=folder)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    torch.manual_seed(0)
    model, task = network(WIDTHS), Planted()
    job = job_of(model, "macs<=50%", Path())
    job.fit(
        model,
        lambda network, batch: task.loss(network(batch[0]), batch),
        Schedule(epochs=8, lr=3e-3, optimizer="adamw"),
    )
    assert task.evaluate(model)["top1"] > 0.98
    return model.eval()


@pytest.fixture(scope="module")
def predictor(classifier: nn.Module) -> nn.Module:
    settings = PredictorSettings(
        schedule=Schedule(epochs=10, lr=1e-3, optimizer="adamw"),
        start="pretrained",
        family="rbf",
        widths=(2.5 / SIDE, 5.5 / SIDE),
        temperature=0.1,
    )
    return fit_predictor(job_of(classifier, "macs<=50%", Path()), Frame(SIDE, SIDE), settings)


@pytest.mark.slow
def test_the_explainer_finds_the_pattern(classifier: nn.Module, predictor: nn.Module) -> None:
    job = job_of(classifier, "macs<=50%", Path())
    images, labels, centres = planted(640, 2)
    errors, widths = [], []
    for weight in (0.2, 2.0):
        settings = ExplainerSettings(
            schedule=Schedule(epochs=12, lr=1e-3, optimizer="adamw"),
            family="rbf",
            area=weight,
            power=0.3,
            roughness=1e-3,
            temperature=1.0,
            labels="data",
        )
        taps = find_taps(job.model, job.graph)
        found = fit_explainer(job, predictor, taps, (Frame(SIDE, SIDE), CLASSES), settings)
        with torch.no_grad():
            _, raw = Explained(job.model, found.taps, found.explainer).eval()(images, labels)
        indices, width = found.explainer.head.centre_and_width(raw)
        errors.append(float((indices - centres).norm(dim=1).median()))
        widths.append(float(width.median()))
        if weight == 0.2:
            assert found.agreement > 0.95
    middle = float((centres - SIDE / 2).norm(dim=1).median())
    assert errors[0] < 2 < middle
    assert widths[1] < widths[0]


@pytest.mark.slow
def test_gates_close_what_does_nothing(classifier: nn.Module, tmp_path: Path) -> None:
    wide = network(2 * width for width in WIDTHS)
    torch.manual_seed(1)
    with torch.no_grad():
        for small, large in zip(classifier, wide, strict=True):
            if isinstance(small, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                if isinstance(large, nn.BatchNorm2d):
                    large.weight.zero_()
                    large.bias.zero_()
                for name, value in small.state_dict().items():
                    own = large.state_dict()[name]
                    own[tuple(slice(0, size) for size in value.shape)] = value
    wide.eval()
    task = Planted()
    whole = task.evaluate(wide)["top1"]
    assert whole > 0.95
    method = InterpretationSteeredPruning(
        predictor_epochs=6, explainer_epochs=6, gate_epochs=15, gate_lr=0.05, gate_start="zeros", cost_weight=2.0
    )
    # differs: the specification asks for 35 % of the gated layers' cost and ends at 25.6 %; here all layers count, and
    # the threshold spends the whole budget
    job, trained = job_of(wide, "macs<=27%", tmp_path), []

    def fit(model: nn.Module, *args: Any, **options: Any) -> None:
        trained.append(model)
        job.fit(model, *args, **options)

    outcome = method.prune(dc.replace(job, fit=fit))
    assert whole - task.evaluate(outcome.model)["top1"] <= 0.05
    gated = trained[-1]
    assert isinstance(gated, Gated)
    # what the gates say; the threshold then fills the budget up with the least closed of the others
    opened = gated.logits().detach() >= math.log(math.log(2))
    live = dead = 0
    for group in gated.masks.groups:
        part = opened[gated.masks.part(group.name)]
        live += int(part[: group.size // 2].sum())
        dead += int(part[group.size // 2 :].sum())
    assert live >= 0.7 * sum(WIDTHS)
    assert dead <= 0.1 * sum(WIDTHS)
