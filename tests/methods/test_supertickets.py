"""SuperTickets: search and pruning in one training run."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.method import METHODS, Job, Outcome
from edakari.core.plan import DropBranch
from edakari.core.protocols import Schedule
from edakari.core.reading import read_json
from edakari.cost import macs, params
from edakari.cost.sparse import sparse_counts
from edakari.errors import DataError, InfeasibleBudget, ModelError, PlanError, SettingsError
from edakari.graph import maskable_weights
from edakari.methods.supertickets import SuperTickets
from edakari.methods.tickets.search_settings import GateSearchSettings
from edakari.models.supernet import supernet
from edakari.surgery import apply, held_masks
from edakari.testing import ToyTask, check_method, toy_cnn, toy_job, toy_vit
from edakari.train import FitSettings, fitter

SEARCH: dict[str, Any] = {"rho": 0.01, "interval": 2, "warmup_epochs": 0.0, "min_saving": 1.0, "decay": 0.9}
MASKS: dict[str, Any] = {"interval": 2, "step": 0.4}
PLAIN = Schedule(epochs=4, lr=0.05, weight_decay=0.0)


def method(epochs: int = 4, search: Any = None, masks: Any = None, **others: Any) -> SuperTickets:
    schedule = dc.replace(PLAIN, epochs=epochs)
    return SuperTickets(search=SEARCH | (search or {}), masks=MASKS | (masks or {}), schedule=schedule, **others)


def zeros(model: nn.Module) -> dict[str, int]:
    """Zeros of the weights that have any."""
    found = {name: int((each == 0).sum()) for name, each in model.named_parameters() if each.dim() > 1}
    return {name: count for name, count in found.items() if count}


def require_kept_promises(outcome: Outcome, job: Job, model: nn.Module) -> None:
    """The plan makes the network's keys and shapes, and the network has zeros exactly where it masks."""
    small = apply(model, outcome.plan, job.graph)
    shapes = [{name: each.shape for name, each in net.state_dict().items()} for net in (small, outcome.model)]
    assert shapes[0] == shapes[1]
    assert held_masks(small) == held_masks(outcome.model)
    masked = {name: int((~mask).sum()) for name, mask in held_masks(outcome.model).items()}
    assert zeros(outcome.model) == {name: count for name, count in masked.items() if count}


def test_it_fulfils_the_protocol() -> None:
    assert METHODS.named("supertickets") is SuperTickets
    check_method(method(2, masks={"step": 0.5}), [toy_cnn()])


def test_its_defaults_are_the_papers() -> None:
    found = SuperTickets()
    assert found.search == GateSearchSettings()
    assert (found.masks.interval, found.masks.step, found.masks.reactivation) == (25, 0.1, "on_search")
    assert (found.schedule.epochs, found.schedule.lr, found.schedule.l2, found.schedule.eps) == (350, 0.032, 1e-5, 1e-3)
    rates = [found.schedule.lr_curve.rate(0.032, step, 3500, 350) for step in (0, 50, 50 + 24)]
    assert rates == pytest.approx([0.016, 0.032, 0.032 * 0.97])


@pytest.mark.parametrize(
    ("budget", "policy"),
    [
        ("sparsity>=70%", "on_search"),
        ("macs<=40%, sparsity>=70%", "persist"),
        ("params<=50%, sparsity>=70%", "after_prune"),
    ],
)
def test_the_sparsity_is_that_of_the_weights_that_are_left(budget: str, policy: Any) -> None:
    """Also where neither a search nor a choice of masks falls on the last epoch."""
    job = toy_job(toy_cnn(), budget)
    alone = {"rho": 0.03, "eps": 0.6, "weighting": "equal"} if "<" not in budget else {}
    outcome = method(5, alone, {"reactivation": policy}).prune(job)
    left, every = sparse_counts(job.graph, outcome.plan).maskable
    assert every < sum(toy_cnn().get_parameter(name).numel() for name in maskable_weights(job.graph))
    assert every - left == int(0.7 * every)
    require_kept_promises(outcome, job, toy_cnn())
    for cost, limit in (("macs", 0.4), ("params", 0.5)):
        if cost in budget:
            term = {"macs": macs, "params": params}[cost](job.graph)
            assert 0.97 * limit < term.total(outcome.plan.sizes()) / term.total({}) <= limit


def test_events_come_in_order_and_are_told(tmp_path: Path) -> None:
    """Search before masks at the same epoch; the search's network is evaluated before, the ticket after."""
    told: list[str] = []
    job = dc.replace(toy_job(toy_cnn(), "macs<=50%, sparsity>=60%"), log=lambda stage, _: told.append(stage))
    outcome = method(5, masks={"step": 0.3}).prune(dc.replace(job, artifacts=tmp_path))
    each = [
        "network before the search after epoch {}",
        "search event after epoch {}",
        "epoch {}",
        "ticket after epoch {}",
    ]
    assert told == [line.format(epoch) for epoch in (2, 4, 5) for line in each]
    search, masks = read_json(tmp_path / "search.json"), read_json(tmp_path / "masks.json")
    assert [event["epoch"] for event in search["events"]] == [2, 4, 5]
    assert [(event["epoch"], event["asked"]) for event in masks] == [(2, 0.3), (4, 0.6), (5, 0.6)]
    assert {*search["events"][0]["metrics"]} == {*masks[0]["metrics"]} == {"accuracy"}
    assert masks[-1]["metrics"] == job.task.evaluate(outcome.model)
    assert len(search["edges"]) == len(search["events"][0]["gates"]) + 1


def test_masks_are_lifted_by_an_executed_search_as_the_policy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that saves too little changes no mask; one that is executed lifts all, also if no unit goes."""
    seen: list[tuple[int, bool, float]] = []
    from edakari.methods.tickets.progressive_mask import ProgressiveMask

    inner = ProgressiveMask.searched

    def searched(self: ProgressiveMask, executed: bool) -> None:
        inner(self, executed)
        seen.append((len(self.events), executed, round(self.sparsity, 2)))

    monkeypatch.setattr(ProgressiveMask, "searched", searched)
    quiet = {"rho": 0.0, "interval": 1, "min_saving": 1e9}
    for policy, final in (("on_search", 0.0), ("persist", 0.4)):
        seen.clear()
        method(2, quiet, {"interval": 1, "reactivation": policy, "one_shot": True}).prune(
            toy_job(toy_cnn(), "sparsity>=40%")
        )
        assert seen == [(0, False, 0.0), (1, True, final)]


@pytest.mark.slow
def test_paths_of_the_supernet_vanish_with_their_masks() -> None:
    """Branches are dropped while weights are masked; the plan is in the supernet's own coordinates."""
    torch.manual_seed(0)
    model = supernet(num_classes=4, preset="tiny").eval()
    job = toy_job(model, "macs<=30%, sparsity>=80%")
    outcome = method(2, masks={"one_shot": True, "interval": 1}).prune(job)
    assert any(isinstance(edit, DropBranch) for edit in outcome.plan.edits)
    require_kept_promises(outcome, job, model)
    left, every = sparse_counts(job.graph, outcome.plan).maskable
    assert every - left == int(0.8 * every)
    assert 0.29 < macs(job.graph).total(outcome.plan.sizes()) / macs(job.graph).total({}) <= 0.3


def test_a_latency_is_met_by_measurement_at_the_last_event() -> None:
    """The loop asks twice, and the second answer is taken; zeros take as long as other weights."""
    tried = []

    def loop(solve: Any, costs: Any, before: Any = None) -> Any:
        slower = [
            dc.replace(each, terms=tuple((1.2 * factor, sizes) for factor, sizes in each.terms)) for each in costs
        ]
        tried.extend([solve(costs), solve(slower)])
        return tried[-1]

    job = toy_job(toy_cnn(), "latency<=60%, sparsity>=60%")
    outcome = method(2, masks={"one_shot": True}).prune(dc.replace(job, loop=loop))
    assert len(tried) == 2
    assert tried[0].sizes() != tried[1].sizes() == outcome.plan.sizes()
    assert macs(job.graph).total(outcome.plan.sizes()) <= 0.6 / 1.2 * macs(job.graph).total({})


class _Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", ["search event after epoch 2", "ticket after epoch 2", "epoch 3"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(stop: str, tmp_path: Path) -> None:
    def run(folder: str, log: Any = lambda *_: None) -> Outcome:
        job = dc.replace(toy_job(toy_cnn(), "macs<=50%, sparsity>=60%"), task=ToyTask(images=32))
        fit = fitter(job.task, FitSettings(folder=tmp_path / folder, progress=False, device="cpu", checkpoint_steps=1))
        return method(3, masks={"one_shot": True}).prune(dc.replace(job, fit=fit, log=log, artifacts=tmp_path / folder))

    def stopping(stage: str, _: Any) -> None:
        if stage == stop:
            raise _Stopped

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = run("whole")
    with pytest.raises(_Stopped):
        run("parts", stopping)
    again = run("parts")
    assert again.plan == whole.plan
    for (name, one), other in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    for file in ("search.json", "masks.json"):
        assert read_json(tmp_path / "whole" / file) == read_json(tmp_path / "parts" / file)


def test_retraining_keeps_structure_and_masks(tmp_path: Path) -> None:
    result = edakari.prune(
        toy_cnn(),
        ToyTask(images=16, batch=8),
        "macs<=50%, sparsity>=80%",
        method(2, {"interval": 1}, {"interval": 1}),
        finetune=Schedule(epochs=2, lr=0.05, weight_decay=0.1, ema=0.5),
        output=tmp_path / "run",
        device="cpu",
    )
    left, every = sparse_counts(result.graph, result.plan).maskable
    assert every - left == int(0.8 * every)
    assert sum(zeros(result.model).values()) == every - left
    assert held_masks(result.model) == held_masks(apply(toy_cnn(), result.plan))
    again = edakari.load(tmp_path / "run", toy_cnn())
    assert zeros(again) == zeros(result.model)
    assert (tmp_path / "run" / "kept" / "search.json").exists()


@pytest.mark.parametrize(
    ("network", "budget", "settings", "error", "said"),
    [
        (toy_vit, "sparsity>=90%", {}, ModelError, "none of the"),
        (toy_cnn, "sparsity>=90%", {"excluded": ("first", "second", "right")}, InfeasibleBudget, "excluded layers"),
        (toy_cnn, "sparsity>=90%", {"excluded": ("frist",)}, PlanError, "did you mean 'first"),
        (toy_cnn, "sparsity>=90%", {"epochs": 1}, SettingsError, "raise epochs to 6"),
        (toy_cnn, "macs<=0.1%, sparsity>=80%", {}, InfeasibleBudget, "cannot reach the budget"),
    ],
)
def test_what_cannot_be_is_told_before_training(
    network: Any, budget: str, settings: Any, error: Any, said: str
) -> None:
    job = dc.replace(toy_job(toy_cnn() if network is toy_cnn else toy_vit(), budget), fit=None)
    with pytest.raises(error, match=said):
        method(**{"epochs": 6, **settings}).prune(job)


def test_settings_that_average_twice_are_refused() -> None:
    with pytest.raises(SettingsError, match="average twice"):
        SuperTickets(schedule=Schedule(ema=0.9))
    with pytest.raises(SettingsError, match="at least 1"):
        SuperTickets(schedule=Schedule(epochs=0))


def test_a_strength_that_closes_a_needed_group_stops_the_run() -> None:
    with pytest.raises(ModelError, match=r"the search stops after epoch \d+: all \d+ units of group"):
        method(6, {"rho": 50.0, "eps": 0.5}).prune(toy_job(toy_cnn(), "sparsity>=50%"))


def test_without_data_it_says_so() -> None:
    with pytest.raises(DataError, match="method 'supertickets'"):
        edakari.prune(toy_cnn(), torch.zeros(1, 3, 16, 16), "sparsity>=90%", "supertickets")
