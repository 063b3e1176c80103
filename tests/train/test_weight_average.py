"""Averages of weights: the formula by hand, cuts as masks, resuming, and copies to evaluate."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import pytest
import torch

import edakari as ek
from edakari.core.protocols import Hook, StepState
from edakari.errors import ModelError, SettingsError
from edakari.testing import random_plan
from edakari.train import WeightAverage, fit
from tests.surgery.masked_training import EXAMPLE, cnn, distance
from tests.train.shrinking import QUIET, SCHEDULE, Mask, Shrink, Stopped, batches, objective


class Record(Hook):
    """Keeps the floating-point tensors of the start and of each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def before_step(self, state: StepState) -> None:
        if not self.seen:
            self.after_step(state)

    def after_step(self, state: StepState) -> None:
        found = state.model.state_dict().items()
        self.seen.append({name: tensor.clone() for name, tensor in found if tensor.is_floating_point()})


class Following(Shrink):
    """Cuts the network with its average, which comes before it among the hooks."""

    def __init__(self, average: WeightAverage, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.average = average

    def end_epoch(self, state: StepState) -> None:
        if state.epoch in self.epochs:
            plan = random_plan(ek.trace(state.model, EXAMPLE), 0.6, state.epoch)
            ek.shrink(state.model, plan, state.optimizer, followers=[self.average])
            self.plan = plan if self.plan is None else self.plan.then(plan)
        self._stop(("epoch", state.epoch))


def test_the_decay_rises_to_its_limit() -> None:
    average = WeightAverage(0.95)
    assert average.fraction(1) == 2 / 11
    assert average.fraction(90) == 0.91
    assert average.fraction(10_000) == 0.95
    for decay in (1.0, -0.1):
        with pytest.raises(SettingsError, match="decay"):
            WeightAverage(decay)


@pytest.mark.parametrize("decay", [0.999, 0.3])
def test_it_is_the_average_by_hand(decay: float) -> None:
    model, record, average = cnn(), Record(), WeightAverage(decay)
    fit(model, objective, batches(), SCHEDULE, hooks=[average, record], settings=QUIET)
    initial, *steps = record.seen
    wanted = {name: tensor.clone() for name, tensor in initial.items()}
    for t, values in enumerate(steps, 1):
        kept = min(decay, (1 + t) / (10 + t))
        wanted = {name: kept * tensor + (1 - kept) * values[name] for name, tensor in wanted.items()}
    copy = average.averaged(model)
    for name, tensor in wanted.items():
        torch.testing.assert_close(copy.state_dict()[name], tensor, atol=1e-12, rtol=0)
        assert torch.equal(model.state_dict()[name], steps[-1][name])
    assert not torch.allclose(copy.state_dict()["stem.0.weight"], model.state_dict()["stem.0.weight"], atol=1e-7)


def test_a_cut_average_is_the_masked_one() -> None:
    small, dense = cnn(), cnn()
    ours, theirs = WeightAverage(0.9), WeightAverage(0.9)
    mask = Mask(dense, 1, lambda model: random_plan(ek.trace(model, EXAMPLE), 0.6, 1))
    fit(small, objective, batches(), SCHEDULE, hooks=[ours, Following(ours, (1,))], settings=QUIET)
    fit(dense, objective, batches(), SCHEDULE, hooks=[theirs, mask], settings=QUIET)
    assert distance(ours.averaged(small), theirs.averaged(dense), mask.where) < 1e-10
    assert distance(small, theirs.averaged(dense), mask.where) > 1e-4


def test_a_resumed_average_is_that_of_a_training_that_ran_through(tmp_path: Path) -> None:
    def run(folder: Path, stop: tuple[str, int] = ("", 0)) -> tuple[torch.nn.Module, WeightAverage]:
        model, average = cnn(), WeightAverage(0.9)
        settings = dc.replace(QUIET, folder=folder)
        hooks = [average, Following(average, (0,), stop)]
        fit(model, objective, batches(), SCHEDULE, hooks=hooks, settings=settings)
        return model, average

    wanted, average = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", ("epoch", 1))
    found, again = run(tmp_path / "stopped")
    assert again.count == average.count
    expected = average.averaged(wanted).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.averaged(found).state_dict().items())


def test_a_copy_to_evaluate_has_statistics_of_its_own_activations() -> None:
    model, average = cnn(), WeightAverage(0.9)
    fit(model, objective, batches(), SCHEDULE, hooks=[average], settings=QUIET)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = [batch[0] for batch in batches()]
    copy = average.evaluation_copy(model, images)
    wanted = ek.recalibrate(average.averaged(model), images)
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in copy.state_dict().items())
    name = next(name for name in before if name.endswith("running_var"))
    assert not torch.allclose(copy.state_dict()[name], average.averaged(model).state_dict()[name], atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_average_that_was_left_behind_is_told() -> None:
    average = WeightAverage()
    with pytest.raises(ModelError, match="`followers`"):
        fit(cnn(), objective, batches(), SCHEDULE, hooks=[average, Shrink()], settings=QUIET)


def test_a_change_of_the_averaged_network_is_a_change_of_the_average() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average, optimizer = WeightAverage(0.5), torch.optim.SGD(model.parameters(), lr=0.1)
    average.change(model, lambda fresh: fresh[0].bias.detach().add_(1))  # nothing is averaged yet
    assert not average.tensors
    average.before_step(StepState(model, optimizer, 0, 0))
    with torch.no_grad():
        model[0].weight.add_(1)
    average.after_step(StepState(model, optimizer, 0, 0))
    live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in average.tensors.items()}
    average.change(model, lambda fresh: fresh[0].bias.detach().add_(1))
    for name, tensor in average.tensors.items():
        assert torch.equal(tensor, before[name] + (name == "0.bias")), name
    assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())
