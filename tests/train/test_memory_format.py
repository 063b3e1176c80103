"""Trainings in channels_last: the same to rounding, resumable, and without a trace on the network afterwards."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edakari.core.memory_format import memory_format_of
from edakari.core.protocols import Hook, Schedule
from edakari.train import FitSettings, fit
from edakari.train.optim import align_states_


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3)]
    return nn.Sequential(*layers)


def batches() -> list[Any]:
    torch.manual_seed(1)
    return [(torch.randn(6, 2, 6, 6), torch.randint(0, 3, (6,))) for _ in range(4)]


def objective(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Looks(Hook):
    """Notes the format of weights, gradients and states; may stop the training."""

    def __init__(self, stop_at: int = -1) -> None:
        self.seen: set[bool] = set()
        self.stop_at = stop_at

    def after_step(self, state: Any) -> None:
        """See `Hook`."""
        for param in state.model.parameters():
            states = [each for each in state.optimizer.state[param].values() if each.shape == param.shape]
            assert all(each.stride() == param.stride() for each in (param.grad, *states))
        self.seen.add(memory_format_of(state.model) == "channels_last")
        if state.step == self.stop_at:
            raise KeyboardInterrupt


SCHEDULES = {
    "sgd": Schedule(epochs=2, lr=0.1, ema=0.9),
    "adamw": Schedule(epochs=2, lr=0.01, optimizer="adamw", clip=1.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_training_in_channels_last_differs_by_rounding_alone(name: str) -> None:
    found = {}
    for form in ("contiguous", "channels_last"):
        model, looks = network().double(), Looks()
        data = [(images.double(), labels) for images, labels in batches()]
        settings = FitSettings(memory_format=form, progress=False, device="cpu")
        fit(model, objective, data, SCHEDULES[name], hooks=[looks], settings=settings)
        assert looks.seen == {form == "channels_last"}
        assert all(param.is_contiguous() for param in model.parameters())
        found[form] = model.state_dict()
    for key, value in found["contiguous"].items():
        torch.testing.assert_close(found["channels_last"][key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_resumed_training_in_channels_last_is_that_without_the_interruption(
    name: str, stop_at: int, tmp_path: Path
) -> None:
    settings = FitSettings(memory_format="channels_last", progress=False, device="cpu", checkpoint_steps=1)
    whole, parts = network(), network()
    fit(whole, objective, batches(), SCHEDULES[name], hooks=[Looks()], settings=settings)
    settings = dc.replace(settings, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, objective, batches(), SCHEDULES[name], hooks=[Looks(stop_at)], settings=settings)
    resumed = network()
    fit(resumed, objective, batches(), SCHEDULES[name], hooks=[Looks()], settings=settings)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


def test_states_are_laid_out_like_their_parameters_with_equal_values() -> None:
    param = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([param])
    param.grad = torch.randn_like(param)
    optimizer.step()
    content = optimizer.state_dict()
    for name, value in content["state"][0].items():
        content["state"][0][name] = value.clone(memory_format=torch.contiguous_format)
    optimizer.load_state_dict(content)
    before = {name: value.clone() for name, value in optimizer.state[param].items()}
    assert optimizer.state[param]["exp_avg"].stride() != param.stride()
    align_states_(optimizer)
    assert optimizer.state[param]["exp_avg"].stride() == param.stride()
    assert all(torch.equal(value, before[name]) for name, value in optimizer.state[param].items())
