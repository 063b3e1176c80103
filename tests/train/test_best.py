"""The best epoch is kept, also by a run that goes on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edakari.core.protocols import Schedule, StepState
from edakari.train import FitSettings, fit
from edakari.train.best import KeepBest, judging


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_the_best_epoch_is_restored_and_survives_a_checkpoint(tmp_path: Path) -> None:
    figures = iter([1.0, 3.0, 2.0])
    model, seen = net(), []

    def figure() -> float:
        assert not model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(figures)

    batches = [torch.randn(8, 2) for _ in range(3)]
    hook = KeepBest(model, figure)
    settings = FitSettings(folder=tmp_path, device="cpu", progress=False)

    def train(network: nn.Module, own: KeepBest) -> None:
        fit(
            network,
            lambda m, x: {"loss": m(x).square().mean()},
            batches,
            Schedule(epochs=3, lr=0.1),
            hooks=[own],
            settings=settings,
        )

    train(model, hook)
    hook.restore()
    assert (hook.best, hook.epoch) == (3.0, 2)
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    again = net()
    other = KeepBest(again, lambda: 0.0)
    train(again, other)  # finished: its weights and the hook's state are read
    other.restore()
    assert all(torch.equal(value, seen[1][name]) for name, value in again.state_dict().items())


def test_without_an_epoch_nothing_changes() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    KeepBest(model, lambda: 0.0).restore()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_judging_puts_modes_and_random_state_back() -> None:
    model = net().train()
    model[1].eval()
    state = torch.get_rng_state()
    with judging(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
    assert [module.training for module in model] == [True, False, True]
    assert torch.equal(torch.get_rng_state(), state)
    hook = KeepBest(model, lambda: 1.0)
    hook.end_epoch(StepState(model, torch.optim.SGD(model.parameters(), 0.1), 0, 0))
    assert model.training
