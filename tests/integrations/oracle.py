"""One problem for every training loop: deterministic batches, float64, and what edakari's own loop makes of it."""

from __future__ import annotations

import copy
import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edakari.core.curves import Exponential, OneCycle
from edakari.core.protocols import Fit, Hook, Schedule, StepState
from edakari.train import FitSettings, History, fit, fit_by, with_gradients

SCHEDULE = Schedule(epochs=2, lr=0.05, warmup=0.3, accumulate=2, weight_decay=0.01)
SCHEDULES = {
    "plain": dc.replace(SCHEDULE, epochs=1, accumulate=1, warmup=0.0),
    "accumulated": SCHEDULE,
    "clipped": dc.replace(SCHEDULE, clip=0.5),
    "drops": dc.replace(SCHEDULE, drops=(0.4, 0.8), drop=0.1, accumulate=1),
    "averaged": dc.replace(SCHEDULE, ema=0.9, final_lr=0.1, momentum=0.0),
    "adamw": dc.replace(SCHEDULE, optimizer="adamw", lr=0.01),
    "one cycle": Schedule(epochs=2, lr=0.02, curve=OneCycle(), optimizer="adam", eps=1e-3, l2=0.02, weight_decay=0.0),
    "staircase": Schedule(
        epochs=2,
        lr=0.01,
        curve=Exponential(warmup_from=0.5, every=0.6),
        optimizer="rmsprop",
        eps=1e-3,
        l2=0.02,
        clip=1.0,
    ),
}
QUIET = FitSettings(device="cpu", progress=False, seed=7)


class Record(Hook):
    """Notes each call with step, epoch and loss."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.losses: list[float] = []
        self.rates: list[float] = []

    def before_step(self, state: StepState) -> None:
        assert state.loss is None
        self.calls.append(("before", state.step, state.epoch))
        groups = state.optimizer.param_groups
        self.end = with_gradients(state.optimizer, lambda: self.rates.append(groups[0]["lr"]))

    def after_step(self, state: StepState) -> None:
        assert all(param.grad is not None for param in state.model.parameters() if param.requires_grad)
        assert state.loss is not None
        self.calls.append(("after", state.step, state.epoch))
        self.losses.append(float(state.loss))
        self.end()

    def end_epoch(self, state: StepState) -> None:
        assert state.loss is not None
        self.calls.append(("end", state.step, state.epoch))
        self.losses.append(float(state.loss))


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 16, 3)).double()


def batches(count: int = 5) -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(4 * count, 3, 4, 4, generator=generator, dtype=torch.float64)
    return list(zip(images.split(4), (torch.arange(4 * count) % 3).split(4), strict=True))


def objective(model: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
    logits = model(batch[0])
    return {"cross_entropy": functional.cross_entropy(logits, batch[1]), "size": 0.01 * logits.square().mean()}


def trained(own: Fit | None, schedule: Schedule) -> tuple[nn.Module, Record, History]:
    """The problem's network after training by a loop, None being edakari's own; what hooks saw; and the history."""
    model, record = copy.deepcopy(network()), Record()
    loop = fit if own is None else fit_by(own)
    history = loop(model, objective, batches(), schedule, hooks=[record], settings=QUIET, evaluate=figures)
    return model, record, history


def figures(model: nn.Module) -> Mapping[str, float]:
    with torch.no_grad():
        return {"sum": float(model.eval()(batches(1)[0][0]).sum())}


def check_same(own: Fit, schedule: Schedule) -> None:
    """A loop ends at the weights of edakari's own, to rounding, and its hooks see the same steps and losses."""
    expected, theirs, first = trained(None, schedule)
    found, ours, second = trained(own, schedule)
    assert ours.calls == theirs.calls
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.rates, theirs.rates, rtol=1e-9, atol=0.0)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-8, atol=1e-10)
    assert second.steps == first.steps
    for one, other in zip(second.epochs, first.epochs, strict=True):
        for name in ("epoch", "lr", "loss"):
            assert abs(one[name] - other[name]) <= 1e-8 * (1 + abs(other[name])), name
        if not schedule.ema:  # own loop judges the averaged weights
            assert abs(one["val_sum"] - other["val_sum"]) <= 1e-7
    assert found.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in found.parameters())
