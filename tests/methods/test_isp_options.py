"""ISP's options by its specification: gates' decay, what the budget overrules, hard samples, gates on disk, scratch."""

from __future__ import annotations

import dataclasses as dc
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.method import Job
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Schedule
from edakari.errors import RunFolderError
from edakari.methods.allocation import allocate
from edakari.methods.isp import InterpretationSteeredPruning
from edakari.methods.masking.gates import FreeLogits, HyperLogits, likely_open
from edakari.methods.saliency import explaining
from edakari.methods.saliency.gating import against_gates, inner_groups
from edakari.methods.saliency.saved import load_gates
from edakari.solve import Threshold
from edakari.testing import toy_cnn, toy_job, toy_vit
from edakari.train.optim import make_optimizer

SHORT: dict[str, Any] = {"predictor_epochs": 1, "explainer_epochs": 1, "gate_epochs": 4, "gate_lr": 0.5}


def stages(job: Job, **settings: Any) -> list[tuple[Schedule, dict[str, Any]]]:
    """Schedules and options of the three trainings, which are not run."""
    asked: list[tuple[Schedule, dict[str, Any]]] = []

    def fit(model: nn.Module, objective: Any, schedule: Schedule, **options: Any) -> None:
        asked.append((schedule, options))

    InterpretationSteeredPruning(**{**SHORT, **settings}).prune(dc.replace(job, fit=fit))
    return asked


def test_gates_decay_as_the_authors_do() -> None:
    """AdamW with a decay of 1e-3 acts on free logits, though these are one number per channel."""
    schedule, options = stages(toy_job(toy_cnn()))[2]
    assert (schedule.optimizer, schedule.weight_decay) == ("adamw", 1e-3)
    (theta,) = options["params"]
    optimizer = make_optimizer([theta], dc.replace(schedule, lr=0.1))
    theta.grad = torch.zeros_like(theta)
    before = theta.detach().clone()
    optimizer.step()
    torch.testing.assert_close(theta.detach(), before * (1 - 0.1 * 1e-3))
    assert not torch.equal(theta.detach(), before)
    groups = toy_job(toy_cnn()).groups
    assert FreeLogits(groups, 3.0, "zeros", 0)().shape == HyperLogits(groups, 3.0, 0)().shape
    assert stages(toy_job(toy_cnn()), gate_weight_decay=0.0)[2][0].weight_decay == 0.0


def test_gates_that_the_budget_overrules_are_counted() -> None:
    groups = toy_job(toy_cnn()).groups[:2]
    sizes = [group.size for group in groups]
    edge = math.log(math.log(2))  # -0.3665: open with a probability of 1/2
    logits = torch.full((sum(sizes),), -5.0)
    logits[:4] = torch.tensor([edge + 1e-4, edge - 1e-4, 2.0, 3.0])
    assert likely_open(logits, sizes).nonzero().flatten().tolist() == [0, 2, 3, sizes[0]]
    first = KeepChannels(groups[0].name, (1, 2))
    plan = Plan((first,), "", toy_job(toy_cnn()).graph.inputs)
    found = against_gates(plan, groups, logits)
    assert found == {"open": 4.0, "open gates cut": 2.0, "closed gates kept": 1.0 + sizes[1] - 1}


def test_the_log_says_how_many_open_gates_the_budget_cut() -> None:
    said: dict[str, dict[str, float]] = {}
    job = dc.replace(toy_job(toy_cnn()), log=lambda stage, figures: said.update({stage: dict(figures)}))
    outcome = InterpretationSteeredPruning(**{**SHORT, "gate_lr": 1e-3}).prune(job)
    found = said["gates and budget"]
    groups = {group.name: group.size for group in inner_groups(job)}
    cut = sum(size - outcome.plan.sizes().get(name, size) for name, size in groups.items())
    assert found["open"] == sum(groups.values())  # such a training closes no gate
    assert found["open gates cut"] == cut > 0
    assert found["closed gates kept"] == 0


def test_gates_on_disk_lead_to_the_plan_and_to_those_of_other_budgets(tmp_path: Path) -> None:
    job = dc.replace(toy_job(toy_cnn()), artifacts=tmp_path)
    plan = InterpretationSteeredPruning(**SHORT).prune(job).plan
    gates = load_gates(tmp_path, job.model)
    assert (gates.offset, gates.temperature, gates.budget) == (3.0, 0.4, str(job.budget))
    assert [len(each) for each in gates.logits.values()] == [group.size for group in inner_groups(job)]
    found = allocate(job.graph, gates.scores(), job.budget, Threshold(), inner_groups(job), ())
    assert found.sizes() == plan.sizes()
    assert set(found.edits) == set(plan.edits)
    other = edakari.allocate(job.graph, gates.scores(), "macs<=80%", groups=inner_groups(job))
    assert other.sizes() != plan.sizes()
    with pytest.raises(RunFolderError, match="gates of a network with other weights"):
        load_gates(tmp_path, toy_cnn(seed=1))
    with pytest.raises(RunFolderError, match=r"gates\.json does not exist"):
        load_gates(tmp_path / "none", job.model)


@pytest.mark.parametrize("make", [toy_cnn, toy_vit])
def test_from_scratch_nothing_that_was_trained_is_left(make: Any) -> None:
    model = make()
    model.extra = nn.MultiheadAttention(8, 2)
    for parameter in model.parameters():
        nn.init.normal_(parameter)  # as a training would leave none at its initial value
    before = {name: value.clone() for name, value in model.named_parameters()}
    explaining._reset(model, 0)
    assert not [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    again = make()
    again.extra = nn.MultiheadAttention(8, 2)
    again.load_state_dict({**again.state_dict(), **before})
    explaining._reset(again, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_samples_are_hard_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    sample = explaining.relaxed_sample

    def noted(mask: torch.Tensor, temperature: float, hard: bool) -> torch.Tensor:
        asked.append(hard)
        return sample(mask, temperature, hard)

    monkeypatch.setattr(explaining, "relaxed_sample", noted)
    for samples, wanted in (("relaxed", False), ("hard", True)):
        asked.clear()
        InterpretationSteeredPruning(**{**SHORT, "gate_epochs": 1, "samples": samples}).prune(toy_job(toy_cnn()))
        assert set(asked) == {wanted}


@pytest.mark.parametrize("matching", ["raw", "shown"])
def test_explanations_are_compared_as_asked(matching: Any) -> None:
    method = InterpretationSteeredPruning(**{**SHORT, "gate_epochs": 1, "matching": matching})
    found: list[float] = []
    job = toy_job(toy_cnn())

    def fit(model: nn.Module, objective: Any, schedule: Schedule, **options: Any) -> None:
        if not hasattr(model, "masks"):
            return
        batch = next(iter(options["batches"]))
        model.take(torch.full((model.masks.size,), -1.0))
        with torch.no_grad():
            found.append(float(objective(model, batch)["interpretation"]))
            _, raw, _ = model(batch[0], batch[1])
        explainer = model.explained.explainer
        difference = explainer.compared(raw, matching) - explainer.compared(batch[2], matching)
        found.append(float(difference.square().mean()))

    method.prune(dc.replace(job, fit=fit))
    assert found[0] > 0
    assert found[0] == pytest.approx(found[1], rel=1e-5)
