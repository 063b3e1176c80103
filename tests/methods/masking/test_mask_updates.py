"""Choices of masks in training: what they rest on, how masked weights fade, and the cut in mid-training."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edakari.core.budget import Budget
from edakari.core.method import Job, Outcome
from edakari.core.protocols import StepState
from edakari.cost import bind, dense
from edakari.errors import EdakariError, PlanError
from edakari.graph import trace
from edakari.methods.masking import mid_training
from edakari.methods.masking.epoch_ramp import EpochRamp
from edakari.methods.masking.mask_updates import MaskUpdateHook
from edakari.methods.masking.masks import Masks, maskable
from edakari.methods.masking.step_scores import Average, ScoreAveraging, StepScores
from edakari.methods.smcp import SoftMaskedPruning, derived_masked_decay, input_taylor
from edakari.testing import ToyTask, toy_cnn, toy_fit, toy_job

SHORT: dict[str, Any] = {
    "epochs": 8,
    "warmup_epochs": 1,
    "ramp_epochs": 4,
    "freeze_epochs": 2,
    "interval": 3,
    "lr": 0.05,
}


def test_derived_decay_is_the_authors_on_their_schedule() -> None:
    steps = math.ceil(1_281_167 / 256)
    assert derived_masked_decay(0.256, 0.875, 55 * steps, 80) == 2e-4
    assert SoftMaskedPruning(lr=0.256)._masked_decay(steps) == 2e-4
    assert SoftMaskedPruning(lr=0.256, masked_decay=0.1)._masked_decay(steps) == 0.1


def kept(lr: float, momentum: float, steps: float, interval: int) -> float:
    """Fraction of a masked weight that is left from one choice of masks to the next."""
    return math.exp(-lr / (1 - momentum) * interval * derived_masked_decay(lr, momentum, steps, interval))


@pytest.mark.parametrize("factor", [0.5, 1, 4, 8])
@pytest.mark.parametrize(("lr", "momentum"), [(0.256, 0.875), (0.01, 0.875), (0.256, 0.95), (0.3, 0.0)])
def test_scaled_schedules_keep_the_same_fraction_from_choice_to_choice(
    factor: float, lr: float, momentum: float
) -> None:
    paper = math.exp(-0.256 / 0.125 * 80 * 2e-4)
    # as many choices as in the authors' schedule, of larger or smaller batches
    assert kept(lr * factor, momentum, 55 * 5005 / factor, round(80 / factor)) == pytest.approx(paper, rel=1e-12)
    # fewer choices: each takes more, so that all together take as much; but never more than to 1/e
    assert kept(lr, momentum, 55 * 5005 / 8, 80) == pytest.approx(paper**8, rel=1e-12)
    assert kept(lr, momentum, 6 * 15, 6) == pytest.approx(math.exp(-1), rel=1e-12)


AVERAGES: tuple[Average, ...] = ("average", "signed_average", "squares", "momentum", "latest")


@pytest.mark.parametrize("average", AVERAGES)
def test_the_last_choice_rests_on_an_interval_or_more(average: Average) -> None:
    mask = torch.ones(2, dtype=torch.bool)
    steps = [torch.tensor([float(k), -3.0 * k]) for k in (1, 2, 3, 10, 20, 30, 40)]
    scores = StepScores(ScoreAveraging(average=average), 2)
    for figures in steps[:3]:
        scores.add(figures, mask)
    chosen = scores.take(mask)
    again, fresh = scores.final(mask)
    assert again is not None
    assert chosen is not None
    assert not fresh
    assert torch.equal(again, chosen)
    for count in (1, 2, 3, 4):
        scores.add(steps[2 + count], mask)
        found, fresh = scores.final(mask)
        assert found is not None
        assert fresh
        used = steps[: 3 + count] if count < 3 else steps[3 : 3 + count]
        assert found.tolist() == pytest.approx(by_hand(average, used), rel=1e-6)


def by_hand(average: Average, steps: list[torch.Tensor]) -> list[float]:
    values = torch.stack(steps).double()
    match average:
        case "average" | "signed_average":
            return values.abs().mean(0).tolist()
        case "squares":
            return values.square().mean(0).tolist()
        case "latest":
            return values[-1].abs().tolist()
    weights = torch.tensor([0.1 * 0.9 ** (len(steps) - 1 - k) for k in range(len(steps))], dtype=torch.float64)
    return (weights[:, None] * values.abs()).sum(0).tolist()


@pytest.mark.parametrize("median_of", [1, 3, 4])
def test_a_score_is_the_median_of_the_last_choices(median_of: int) -> None:
    mask, generator = torch.ones(5, dtype=torch.bool), torch.Generator().manual_seed(median_of)
    scores = StepScores(ScoreAveraging(median_of=median_of), 5)
    intervals = torch.rand(7, 2, 5, generator=generator)
    for number, steps in enumerate(intervals):
        for figures in steps:
            scores.add(figures, mask)
        if number == 3:  # a run that was stopped continues
            state, scores = scores.state_dict(), StepScores(ScoreAveraging(median_of=median_of), 5)
            scores.load_state_dict(state)
        wanted = intervals[max(0, number + 1 - median_of) : number + 1].double().mean(1).quantile(0.5, dim=0)
        last, fresh = scores.final(mask)
        assert fresh
        torch.testing.assert_close(last, wanted, rtol=1e-6, atol=0)
        torch.testing.assert_close(scores.take(mask), wanted, rtol=1e-6, atol=0)
        again, fresh = scores.final(mask)
        assert not fresh
        torch.testing.assert_close(again, wanted, rtol=1e-6, atol=0)


def test_scores_right_after_a_cut_do_not_undo_it() -> None:
    """Measured on ResNet-20: the scores of a group that lost half of its channels were 18 times as high as before."""
    mask = torch.ones(3, dtype=torch.bool)
    found = {}
    for median_of in (1, 5):
        scores = StepScores(ScoreAveraging(median_of=median_of), 3)
        for number in range(6):
            scores.add(torch.tensor([1.0 if number < 5 else 18.0, 2.0, 3.0]), mask)
            chosen = scores.take(mask)
        assert chosen is not None
        found[median_of] = chosen.argsort().tolist()
    assert found == {1: [1, 2, 0], 5: [0, 1, 2]}


def test_nothing_is_chosen_again_by_the_same_figures() -> None:
    model = toy_cnn()
    job = toy_job(model)
    masks = Masks(model, job.graph, maskable(job.graph, job.groups))
    hook = MaskUpdateHook(masks, job, EpochRamp(100, 0, 0, 0, 2), input_taylor)
    state = StepState(model, torch.optim.SGD(model.parameters(), lr=0.0), 0, 0)
    images, labels = ToyTask().batches("train")[0]  # type: ignore[index]
    for state.step in range(2):
        hook.before_step(state)
        with masks.installed():
            nn.functional.cross_entropy(model(images), labels).backward()
        state.optimizer.step()
        hook.after_step(state)
    assert hook.rounds == 1
    # other masks within the budget, which the same scores would not choose
    other = torch.cat([torch.arange(group.size) >= group.size // 2 for group in masks.groups])
    assert bind(job.budget, job.graph).excess({group.name: group.size // 2 for group in masks.groups}) <= 0
    masks.set(other)
    hook.finish()
    assert torch.equal(masks.mask, other)
    assert (hook.rounds, hook.final) == (1, True)


@pytest.mark.parametrize("average", ["latest", "average", "momentum"])
def test_a_training_without_a_choice_before_the_freeze_ends_well(average: Average) -> None:
    job = toy_job(toy_cnn())
    outcome = SoftMaskedPruning(**{**SHORT, "interval": 1000}, average=average).prune(job)
    assert -0.03 < bind(job.budget, job.graph).excess(outcome.plan.sizes()) <= 0


@pytest.mark.parametrize(
    ("warmup", "ramp", "per_epoch"), [(0, 0.15, 176), (0.25, 1.0, 100), (0.5, 2.25, 8), (1, 0.5, 10)]
)
def test_ramps_in_parts_of_an_epoch_tighten_from_step_to_step(warmup: float, ramp: float, per_epoch: int) -> None:
    schedule = EpochRamp(4, warmup, ramp, 0, 1, "linear", per_epoch)
    limits = [schedule.limit(100.0, 30.0, step, step // per_epoch) for step in range(4 * per_epoch)]
    done = (np.arange(4 * per_epoch) / per_epoch - warmup) / ramp
    assert limits == pytest.approx(list(100 - 70 * done.clip(0, 1)))
    for curve in ("exp", "exp2"):
        bent = dc.replace(schedule, curve=curve)  # type: ignore[arg-type]
        found = [bent.limit(100.0, 30.0, step, step // per_epoch) for step in range(4 * per_epoch)]
        assert np.diff(found).max() <= 0
        assert np.diff(found).min() >= -2 * 70 / (ramp * per_epoch) - 1e-9
        assert found[-1] == 30


class Two(nn.Module):
    """y = w1 x1 + w2 x2, of a group of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.make.weight.copy_(torch.eye(2))
            self.read.weight.copy_(torch.tensor([[0.5, 0.1]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.read(self.make(x))
        return y


@pytest.mark.parametrize(
    ("mode", "updates", "swaps"), [("soft", 0, False), ("soft", 1, False), ("soft", 2, True), ("hard", 9, False)]
)
def test_masks_swap_under_a_budget_of_one_channel_by_hand(mode: Any, updates: int, swaps: bool) -> None:
    model = Two()
    graph = trace(model, torch.zeros(1, 2))
    budget = Budget.parse("macs<=50%").absolute(dense(graph))
    masks = Masks(model, graph, graph.groups, mode)
    job = Job(model, graph, graph.groups, ToyTask(), budget, toy_fit)
    hook = MaskUpdateHook(
        masks, job, EpochRamp(1, 0, 0, 0, updates + 1), input_taylor, ScoreAveraging(average="latest")
    )
    masks.set(torch.tensor([True, False]))
    state = StepState(model, torch.optim.SGD(model.read.parameters(), lr=0.1), 0, 0)
    x = torch.eye(2) * 2**0.5  # inputs whose covariance is the identity
    for state.step in range(updates + 1):
        assert masks.mask.tolist() == [True, False]
        hook.before_step(state)
        state.optimizer.zero_grad()
        with masks.installed():
            (0.5 * (model(x)[:, 0] - x[:, 1]).square().mean()).backward()
        state.optimizer.step()
        hook.after_step(state)
    assert hook.rounds == 1
    assert masks.mask.tolist() == [not swaps, swaps]


def pruned(method: SoftMaskedPruning, budget: str = "macs<=50%") -> tuple[Outcome, list[int], list[Mapping[str, Any]]]:
    """The outcome, the number of parameters at each step of the training, and the log."""
    job, sizes, log = toy_job(toy_cnn(), budget), list[int](), list[Mapping[str, Any]]()

    def fit(model: nn.Module, objective: Any, *args: Any, **rest: Any) -> None:
        def counted(network: nn.Module, batch: Any) -> Any:
            sizes.append(sum(parameter.numel() for parameter in network.parameters()))
            return objective(network, batch)

        job.fit(model, counted, *args, **rest)

    def kept(stage: str, figures: Mapping[str, float]) -> None:
        log.append({"stage": stage, **figures})

    return method.prune(dc.replace(job, fit=fit, log=kept)), sizes, log


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"masks": "hard", "norm_scale": "none"},
        {"masks": "permanent"},
        {"remove_branches": True},
        {"freeze_epochs": 2.5},
    ],
)
def test_a_cut_in_mid_training_changes_nothing_but_the_time(changes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = SoftMaskedPruning(**{**SHORT, **changes})
    budget = "macs<=35%" if "remove_branches" in changes else "macs<=50%"
    cut, sizes, _ = pruned(method, budget)
    first = 4 * (8 - int(method.freeze_epochs))
    small = sum(parameter.numel() for parameter in cut.model.parameters())
    assert len(sizes) == 32
    assert set(sizes[:first]) == {sizes[0]}
    assert set(sizes[first:]) == {small}
    assert small < sizes[0]
    monkeypatch.setattr(MaskUpdateHook, "_cut", lambda hook, state: None)
    masked, whole, _ = pruned(method, budget)
    assert set(whole) == {sizes[0]}
    assert cut.plan == masked.plan
    state = masked.model.state_dict()
    assert list(state) == list(cut.model.state_dict())
    for name, value in cut.model.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=2e-5, rtol=2e-4)


def test_a_network_that_cannot_be_cut_in_place_trains_with_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    method = SoftMaskedPruning(**SHORT)
    cut, _, _ = pruned(method)

    def refuse(*args: Any, **rest: Any) -> None:
        raise PlanError("its code keeps a number")

    monkeypatch.setattr(mid_training, "shrink", refuse)
    masked, sizes, log = pruned(method)
    assert len(set(sizes)) == 1
    assert sum("its code keeps a number" in entry["stage"] for entry in log) == 1
    assert masked.plan == cut.plan


def test_the_log_tells_how_many_channels_come_back_per_choice() -> None:
    _, _, log = pruned(SoftMaskedPruning(**SHORT))
    assert log[0]["stage"] == "decay of masked weights"
    assert log[0]["kept_per_choice"] == pytest.approx(math.exp(-0.05 / 0.125 * 3 * log[0]["masked_decay"]))
    entries = [entry for entry in log if "regrown" in entry]
    assert [entry["stage"] for entry in entries] == ["epoch 2", "epoch 3", "epoch 4", "epoch 5", "final masks"]
    regrown = [0, *(entry["regrown"] for entry in entries)]
    rounds = [0, *(entry["rounds"] for entry in entries)]
    assert rounds[-1] == len([step for step in range(1, 25) if step % 3 == 0 and step > 4])
    for entry, came, choices in zip(entries, np.diff(regrown), np.diff(rounds), strict=True):
        assert entry["regrown_per_choice"] == came / choices
    assert regrown[-1] > 0


def test_scores_are_normalised_within_groups_and_shared_among_readers_by_hand() -> None:
    model = toy_cnn()
    graph = trace(model, ToyTask().example())
    masks = Masks(model, graph, maskable(graph, graph.groups), "hard")
    scores = torch.rand(masks.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(masks.size, dtype=torch.bool)
    gone = masks.part(masks.groups[0].name).start
    mask[gone], scores[gone] = False, 0.0  # it cannot return, and does not lower the mean
    masks.set(mask)
    assert torch.equal(ScoreAveraging().comparable(scores, masks), scores)
    readers = {group.name: masks.readers(group.name) for group in masks.groups}
    assert len(set(readers.values())) > 1
    for group in masks.groups:
        part = masks.part(group.name)
        own = scores[part][mask[part]]
        for normalize, whole in (("mean", own.mean()), ("max", own.max()), ("sum", own.sum()), ("none", 1.0)):
            for sharing in (0.0, 0.5, 1.0):
                averaging = ScoreAveraging(normalize=normalize, sharing=sharing)  # type: ignore[arg-type]
                found = averaging.comparable(scores, masks)[part]
                torch.testing.assert_close(found, scores[part] / (whole * readers[group.name] ** sharing))


@pytest.mark.parametrize("settings", [{"normalize": "mean"}, {"normalize": "sum", "sharing": 0.5}])
def test_normalised_scores_choose_other_masks_within_the_budget(settings: Any) -> None:
    job = toy_job(toy_cnn(), "macs<=35%")
    plain = SoftMaskedPruning(**SHORT).prune(job).plan
    plan = SoftMaskedPruning(**SHORT, **settings).prune(toy_job(toy_cnn(), "macs<=35%")).plan
    assert -0.03 < bind(job.budget, job.graph).excess(plan.sizes()) <= 0
    assert plan.sizes() != plain.sizes()
    with pytest.raises(EdakariError, match="remove_branches: false"):
        SoftMaskedPruning(**SHORT, **settings, remove_branches=True).prune(job)
