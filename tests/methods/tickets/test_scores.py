"""Scores of single weights against their papers' formulas, computed otherwise."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from edakari.core.protocols import Batch
from edakari.errors import DataError, UnknownName
from edakari.methods.tickets.scores import ScoreSource, choose_weights, score_weights
from edakari.testing.toys import ToyTask, toy_cnn

NAMES = ("0.weight", "2.weight")


@dc.dataclass(frozen=True)
class Numbers:
    """A task of a few numbers in float64."""

    metric: str = ""

    def example(self) -> torch.Tensor:
        return torch.zeros(1, 4, dtype=torch.float64)

    def batches(self, split: str) -> Iterable[Batch]:
        generator = torch.Generator().manual_seed(3)
        return [(torch.randn(6, 4, generator=generator, dtype=torch.float64), torch.arange(6) % 3) for _ in range(4)]

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        return model(batch[0])

    def loss(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor]:
        return {"loss": functional.cross_entropy(outputs, batch[1])}

    def evaluate(self, model: nn.Module, split: str = "val") -> Mapping[str, float]:
        return {}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def loss_of(model: nn.Module, weights: Mapping[str, torch.Tensor], batches: int) -> torch.Tensor:
    task = Numbers()
    every = list(task.batches("train"))[:batches]
    return sum(task.loss(functional_call(model, dict(weights), each[0]), each)["loss"] for each in every) / batches


@pytest.mark.parametrize("batches", [1, 3])
def test_snip_is_the_gradient_of_a_factor_at_each_weight(batches: int) -> None:
    model = network()
    factors = {name: torch.ones_like(model.get_parameter(name)).requires_grad_() for name in NAMES}
    loss = loss_of(model, {name: model.get_parameter(name).detach() * c for name, c in factors.items()}, batches)
    wanted = torch.autograd.grad(loss, list(factors.values()))
    found = score_weights(model, NAMES, "snip", ScoreSource(Numbers(), batches))
    for name, grad in zip(NAMES, wanted, strict=True):
        torch.testing.assert_close(found[name], grad.abs(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("batches", [1, 3])
def test_grasp_is_weight_times_hessian_times_gradient(batches: int) -> None:
    model = network()
    row = torch.cat([model.get_parameter(name).detach().flatten() for name in NAMES])
    shapes = [model.get_parameter(name).shape for name in NAMES]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        return loss_of(model, {n: p.view(s) for n, p, s in zip(NAMES, parts, shapes, strict=True)}, batches)

    hessian = torch.autograd.functional.hessian(loss, row)
    gradient = torch.autograd.functional.jacobian(loss, row)
    found = score_weights(model, NAMES, "grasp", ScoreSource(Numbers(), batches))
    flat = torch.cat([found[name].flatten() for name in NAMES])
    torch.testing.assert_close(flat, row * (hessian @ gradient), rtol=1e-8, atol=1e-12)


def test_grasp_keeps_what_carries_the_gradients_norm() -> None:
    """Taking a small part of the weight with the lowest score away raises the squared norm of the gradient most."""
    model, names = network(), ["0.weight"]
    scores = score_weights(model, NAMES, "grasp", ScoreSource(Numbers()))

    def norm(change: torch.Tensor) -> float:
        weights = {name: model.get_parameter(name).detach().clone() for name in NAMES}
        weights["0.weight"] += change
        weights = {name: each.requires_grad_() for name, each in weights.items()}
        return sum(
            float(g.square().sum()) for g in torch.autograd.grad(loss_of(model, weights, 1), list(weights.values()))
        )

    weight = model.get_parameter(names[0]).detach()
    flat, small = scores[names[0]].flatten(), 1e-5
    effects = []
    for index in range(weight.numel()):
        change = torch.zeros(weight.numel(), dtype=torch.float64)
        change[index] = -small * weight.flatten()[index]
        effects.append((norm(change.view_as(weight)) - norm(torch.zeros_like(weight))) / small)
    torch.testing.assert_close(-2 * flat, torch.tensor(effects, dtype=torch.float64), rtol=1e-2, atol=1e-4)


def test_synflow_is_the_flow_through_each_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    norm = model[1]
    nn.init.uniform_(norm.weight, -1.5, 1.5)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    names = ("0.weight", "3.weight")
    first, last = (model.get_parameter(name).detach().abs() for name in names)
    scale = norm.weight.detach().abs() / (norm.running_var + norm.eps).sqrt()
    into, out = last.sum(0), first.sum(1) * scale
    found = score_weights(model, names, "synflow", ScoreSource(Numbers()))
    torch.testing.assert_close(found["0.weight"], first * (scale * into)[:, None], rtol=1e-12, atol=0)
    torch.testing.assert_close(found["3.weight"], last * out[None], rtol=1e-12, atol=0)


def test_synflow_conserves_flow_and_leaves_no_layer_empty() -> None:
    """At a sparsity where one round empties a layer, a hundred rounds do not: the paper's reason for them."""
    torch.manual_seed(0)
    widths = (4, 64, 64, 64, 3)
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*layers).double()
    names = [f"{index}.weight" for index in range(len(layers))]
    source = ScoreSource(Numbers())
    scores = score_weights(model, names, "synflow", source)
    totals = [float(each.sum()) for each in scores.values()]
    assert totals == pytest.approx([totals[0]] * len(totals), rel=1e-9)
    kept = choose_weights(model, names, 0.99, "synflow", source)
    assert all(bool(mask.any()) for mask in kept.values())
    total = sum(mask.numel() for mask in kept.values())
    assert sum(int((~mask).sum()) for mask in kept.values()) == int(0.99 * total)


@pytest.mark.parametrize("score", ["magnitude", "random", "snip", "grasp", "synflow"])
def test_scoring_changes_nothing_and_is_the_same_twice(score: Any) -> None:
    model, names = toy_cnn(), ("stem.0.weight", "depthwise.0.weight", "head.weight")
    model.train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state = torch.get_rng_state()
    source = ScoreSource(ToyTask(), seed=5)
    found = [score_weights(model, names, score, source) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    for name in names:
        assert found[0][name].shape == model.get_parameter(name).shape
        assert torch.equal(found[0][name], found[1][name])
        assert found[0][name].unique().numel() > 4
    assert all(each.grad is None for each in model.parameters())


def test_random_depends_on_the_seed() -> None:
    first, other = (score_weights(network(), NAMES, "random", ScoreSource(seed=seed))["0.weight"] for seed in (0, 1))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("score", ["snip", "grasp", "synflow"])
def test_a_score_of_data_without_a_task_is_an_error(score: Any) -> None:
    with pytest.raises(DataError, match=f"'{score}' needs a task"):
        score_weights(network(), NAMES, score)


def test_an_unknown_score_is_an_error() -> None:
    with pytest.raises(UnknownName, match="did you mean 'snip'"):
        score_weights(network(), NAMES, "snipp")  # type: ignore[arg-type]
