"""Runs whose plan masks single weights: in memory and in folders, reports, export, and a second run on the result."""

from __future__ import annotations

import dataclasses as dc
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import edakari
from edakari.core.copying import copied
from edakari.core.method import Job, Outcome
from edakari.core.plan import KeepChannels, MaskWeights, Plan
from edakari.cost.sparse import sparse_counts
from edakari.criteria import Magnitude
from edakari.errors import PlanError
from edakari.export import to_onnx
from edakari.graph import maskable_weights, trace
from edakari.report.formatting import rows
from edakari.solve import Threshold
from edakari.surgery import apply, held_masks, load, load_plan, mask_weights, reconstruct, shrink
from edakari.testing import random_plan, toy_cnn

X = torch.zeros(1, 3, 16, 16)


@dc.dataclass(frozen=True)
class HalfMasked:
    """Cuts channels by magnitude, and masks the smaller half of the remaining weights of each convolution."""

    fills: bool = False
    paper: ClassVar[str] = ""
    emits: ClassVar[frozenset[type]] = frozenset({KeepChannels, MaskWeights})

    def prune(self, job: Job) -> Outcome:
        cut = job.allocate(Magnitude().score(job.model, job.graph), Threshold())
        small = apply(job.model, cut, job.graph)
        graph = trace(small, job.task.example())
        weights = {name: small.get_parameter(name).detach().abs() for name in maskable_weights(graph)}
        mask = mask_weights(graph, {name: each > each.median() for name, each in weights.items()})
        model = small if self.fills else apply(small, mask, graph)
        return Outcome(cut.then(mask, job.graph), model)


def masked_weights_are_zero(model: nn.Module, plan: Plan) -> None:
    masks = held_masks(model)
    assert masks.keys() == plan.masks().keys()
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()


def test_a_run_masks_and_reports(tmp_path: Path) -> None:
    model = toy_cnn()
    result = edakari.prune(model, X, "macs<=60%", HalfMasked(), output=tmp_path / "run")
    masked_weights_are_zero(result.model, result.plan)
    assert "mask weights" in repr(result.plan.__class__(result.plan.edits[-1:], "", None))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    counts = sparse_counts(trace(model, X), result.plan)
    assert report["masked"] == {
        "kept": counts.maskable[0],
        "weights": counts.maskable[1],
        "params": counts.sparse_params,
        "macs": counts.sparse_macs,
        "uniform_macs": counts.uniform_macs,
        "layers": [dc.asdict(layer) for layer in counts.layers if layer.maskable],
    }
    assert sum(layer["kept"] for layer in report["masked"]["layers"]) == counts.maskable[0]
    names = [row["name"] for row in rows(report)]
    assert "MACs, without masked weights" in names
    assert "MACs, as SuperTickets counts" in names
    assert "masked weights" in repr(result)
    assert "as SuperTickets counts" in (tmp_path / "run" / "report.html").read_text()
    back = load(tmp_path / "run", model)
    assert held_masks(back) == held_masks(result.model)
    assert load_plan(tmp_path / "run").masks() == result.plan.masks()


def zeros_in(path: Path) -> int:
    import onnx
    from onnx import numpy_helper

    stored = [numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer]
    return sum(int((each == 0).sum()) for each in stored if np.issubdtype(each.dtype, np.floating))


def test_zeros_stay_zeros_in_onnx_with_folded_norms(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = toy_cnn()
    graph = trace(model, X)
    masks = {name: torch.rand(model.get_parameter(name).shape) < 0.5 for name in maskable_weights(graph)}
    plan = mask_weights(graph, masks)
    to_onnx(apply(model, plan), X, tmp_path / "a.onnx")
    assert zeros_in(tmp_path / "a.onnx") >= plan.masks().counts()[1] - plan.masks().counts()[0]


def test_a_second_run_keeps_the_zeros_of_the_first() -> None:
    first = edakari.prune(toy_cnn(), X, "macs<=60%", HalfMasked())
    second = edakari.prune(first.model, X, "macs<=60%")
    held = held_masks(second.model)
    assert held.keys() == held_masks(first.model).keys()
    assert not any(second.model.get_parameter(name)[~mask].any() for name, mask in held.items())
    assert not any(isinstance(edit, MaskWeights) for edit in second.plan.edits)
    assert "masked weights" in repr(second)
    third = edakari.prune(second.model, X, "macs<=90%", HalfMasked())
    assert held_masks(third.model).counts()[0] < held.counts()[0]


def test_a_run_starts_with_zeros_where_its_network_says_so() -> None:
    first = edakari.prune(toy_cnn(), X, "macs<=60%", HalfMasked()).model
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    with pytest.raises(PlanError, match=r"the network to prune has .* not zero"):
        edakari.prune(first, X, "macs<=60%")


def test_a_method_that_fills_masked_weights_is_refused() -> None:
    with pytest.raises(PlanError, match=r"network of method .* not zero"):
        edakari.prune(toy_cnn(), X, "macs<=60%", HalfMasked(fills=True))


def test_fixed_widths_join_with_a_methods_masks() -> None:
    result = edakari.prune(toy_cnn(), X, "macs<=60%", HalfMasked(), groups={"widths": {"expand.0": 24}})
    assert result.plan.sizes()["expand.0"] == 24
    masked_weights_are_zero(result.model, result.plan)
    assert held_masks(apply(toy_cnn(), result.plan)) == held_masks(result.model)


@pytest.mark.parametrize("cut", [False, True])
def test_reconstruction_fits_the_weights_that_stay_and_no_others(cut: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Flatten(2), nn.Linear(49, 4, bias=False)).double()
    images = torch.randn(64, 3, 9, 9, dtype=torch.float64)
    graph = trace(model, images[:1])
    masks = {name: torch.rand(model.get_parameter(name).shape) < 0.6 for name in ("0.weight", "1.weight", "3.weight")}
    plan = mask_weights(graph, masks)
    if cut:
        plan = plan.then(random_plan(graph, 0.7))
    plain, fitted = apply(model, plan, graph), reconstruct(model, plan, [images], graph=graph, ridge=1e-9)
    for name, mask in held_masks(plain).items():
        assert not fitted.get_parameter(name)[~mask].any()
        assert not torch.equal(fitted.get_parameter(name), plain.get_parameter(name))
    wanted = model(images)
    assert (fitted(images) - wanted).square().mean() < (plain(images) - wanted).square().mean()
    # the last layer is a least-squares solution: its error is orthogonal to each input that it may use
    inputs = fitted[:3](images).flatten(0, 1).detach()
    error = (wanted - fitted(images)).flatten(0, 1).detach()
    free = held_masks(plain)["3.weight"].T
    assert (inputs.T @ error)[free].abs().max() < 1e-5 * (inputs.T @ wanted.flatten(0, 1).detach()).abs().max()


def test_recalibration_leaves_zeros() -> None:
    model = toy_cnn()
    graph = trace(model, X)
    masks = {name: torch.rand(model.get_parameter(name).shape) < 0.5 for name in maskable_weights(graph)}
    small = apply(model, mask_weights(graph, masks))
    edakari.recalibrate(small, [torch.randn(8, 3, 16, 16)])
    assert not any(small.get_parameter(name)[~mask].any() for name, mask in held_masks(small).items())


def test_shrinking_in_place_masks_as_apply_does() -> None:
    model = toy_cnn()
    graph = trace(model, X)
    masks = {name: torch.rand(model.get_parameter(name).shape) < 0.5 for name in maskable_weights(graph)}
    plan = mask_weights(graph, masks).then(random_plan(graph, 0.7))
    wanted = apply(model, plan, graph)
    same = copied(model)
    optimizer = torch.optim.SGD(same.parameters(), 0.1, momentum=0.9)
    same(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    for parameter, value in zip(same.parameters(), model.parameters(), strict=True):
        parameter.data.copy_(value)
    shrink(same, plan, optimizer, graph=graph)
    assert all(map(torch.equal, same.parameters(), wanted.parameters()))
    assert held_masks(same) == held_masks(wanted)
    assert {id(each) for each in same.parameters()} == {id(each) for each in optimizer.param_groups[0]["params"]}
