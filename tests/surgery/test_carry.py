"""The oracle: training continues after a cut as the dense network does with the removed parts masked."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import edakari as ek
from edakari.testing import enlivened, random_plan, toy_vit
from edakari.train.average import averaged_weights, hand_over
from tests.surgery.masked_training import (
    EXAMPLE,
    OPTIMIZERS,
    cnn,
    distance,
    groups_of,
    halves,
    mask_all,
    masked,
    masks_of,
    parts_of,
    positions,
    states_of,
    tied,
    train,
    trained,
)


@pytest.mark.parametrize(
    ("name", "build"),
    [*((name, tied) for name in OPTIMIZERS), *((name, cnn) for name in ("sgd", "adam", "nadam", "timm lookahead"))],
)
def test_training_continues_as_if_masked(name: str, build: Callable[[], nn.Module]) -> None:
    seed = list(OPTIMIZERS).index(name)
    model, optimizer = trained(build, OPTIMIZERS[name])
    graph = ek.trace(model, EXAMPLE)
    plan = random_plan(graph, (0.3, 0.8), seed, drop=0.5)
    where = positions(model, plan)
    small = ek.apply(model, plan, graph)
    assert ek.carry(optimizer, model, small, plan, graph=graph) is optimizer
    train(small, optimizer, 4, seed=1)
    twin, twins_optimizer = masked(build, OPTIMIZERS[name], where)
    assert distance(small, twin, where) < 1e-11
    wide = dict(twin.named_parameters(remove_duplicate=False))
    for param_name, param in small.named_parameters():
        ours = states_of(optimizer).get(param, {})
        theirs = states_of(twins_optimizer).get(wide[param_name], {})
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            if isinstance(value, torch.Tensor) and theirs[key].shape == wide[param_name].shape:
                torch.testing.assert_close(value, theirs[key].reshape(-1)[where[param_name]], atol=1e-11, rtol=0)
            else:
                assert value == theirs[key] or math.isclose(value, theirs[key], rel_tol=1e-9)


def test_a_new_optimizer_does_not_continue_as_if_masked() -> None:
    model, _ = trained(cnn, OPTIMIZERS["sgd"])
    graph = ek.trace(model, EXAMPLE)
    plan = random_plan(graph, 0.5)
    where = positions(model, plan)
    small = ek.apply(model, plan, graph)
    train(small, OPTIMIZERS["sgd"](groups_of(small)), 4, seed=1)
    twin, _ = masked(cnn, OPTIMIZERS["sgd"], where)
    assert distance(small, twin, where) > 1e-4


@pytest.mark.parametrize("seed", [0, 1])
def test_states_follow_widths_of_transformers(seed: int) -> None:
    """Where layers normalise over pruned channels, a network of masked weights is no oracle: its optimizer is."""
    model = enlivened(toy_vit())
    optimizer = torch.optim.Adam(groups_of(model), amsgrad=True)
    train(model, optimizer, 2)
    twin, twins_optimizer = copy.deepcopy((model, optimizer))
    graph = ek.trace(model, EXAMPLE)
    plan = random_plan(graph, (0.4, 0.8), seed, drop=0.3)
    where, wide = positions(model, plan), dict(twin.named_parameters())
    small = ek.apply(model, plan, graph)
    ek.carry(optimizer, model, small, plan, graph=graph)
    for step in range(3):
        train(small, optimizer, 1, seed=step)
        for param in wide.values():
            param.grad = torch.zeros_like(param)
        for name, param in small.named_parameters():
            wide[name].grad.view(-1)[where[name]] = param.grad
        twins_optimizer.step()
        assert distance(small, twin, where) < 1e-12


def test_scheduler_and_scaler_continue() -> None:
    model = cnn()
    optimizer = torch.optim.SGD(groups_of(model), 0.1, momentum=0.9)
    schedulers = [
        torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8),
            ],
            milestones=[2],
        ),
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)

    def steps(network: nn.Module, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            scaler.scale(network(torch.ones(2, 3, 16, 16, dtype=torch.float64)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            schedulers[0].step()

    steps(model, 3)
    rates, scale = [group["lr"] for group in optimizer.param_groups], scaler.get_scale()
    small, plan = halves(model)
    before = copy.deepcopy(small.state_dict())
    ek.carry(optimizer, model, small, plan)
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert scaler.get_scale() == scale
    steps(small, 3)
    assert scaler.get_scale() == 4 * scale
    assert [group["lr"] for group in optimizer.param_groups] == schedulers[0].get_last_lr() != rates
    assert all(not torch.equal(param, before[name]) for name, param in small.named_parameters())


def ours(model: nn.Module) -> Any:
    return averaged_weights(model, 0.8)


AVERAGES: dict[str, Callable[[nn.Module], Any]] = {
    "torch": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True),
    "swa": AveragedModel,
    "timm v1": lambda model: ModelEma(model, 0.8),
    "timm v2": lambda model: ModelEmaV2(model, 0.8),
    "timm v3": lambda model: ModelEmaV3(model, 0.8),
    "edakari": ours,
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_continue_as_if_masked(name: str) -> None:
    def run(network: nn.Module, optimizer: torch.optim.Optimizer, average: Any, masks: Any = None) -> None:
        for step in range(3):
            train(network, optimizer, 1, masks, seed=step)
            getattr(average, "update_parameters", getattr(average, "update", None))(network)

    model, twin = cnn(), cnn()
    makes = [OPTIMIZERS["adam"](each.parameters()) for each in (model, twin)]
    average, twins_average = AVERAGES[name](model), AVERAGES[name](twin)
    run(model, makes[0], average)
    run(twin, makes[1], twins_average)
    graph = ek.trace(model, EXAMPLE)
    plan = random_plan(graph, (0.3, 0.8), 1, drop=0.5)
    where = positions(model, plan)
    small = ek.apply(model, plan, graph)
    ek.carry(makes[0], model, small, plan, average, graph=graph)
    run(small, makes[0], average)
    masks = masks_of(twin, where)
    mask_all(makes[1], masks)
    run(twin, makes[1], twins_average, masks)
    inner, twins_inner = (getattr(each, "ema", getattr(each, "module", None)) for each in (average, twins_average))
    assert distance(inner, twins_inner, where) < 1e-11
    assert distance(inner, twin, where) > 1e-6
    assert not any(param is own for param in inner.parameters() for own in small.parameters())
    if name == "edakari":
        hand_over(average, small)
        assert (
            distance(small, inner, {key: torch.arange(t.numel()).view(t.shape) for key, t in parts_of(small).items()})
            == 0
        )
