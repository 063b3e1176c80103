"""Gradual magnitude pruning, and masks that hold in everything that trains afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.protocols import Schedule
from edakari.cost.sparse import sparse_counts
from edakari.errors import BudgetError, InfeasibleBudget, PlanError, RecipeError
from edakari.graph import maskable_weights, trace
from edakari.methods.gradual_magnitude import GradualMagnitude
from edakari.surgery import held_masks
from edakari.testing import ToyTask, check_method, toy_cnn, toy_job

TASK = ToyTask(images=16, batch=8)
SHORT: dict[str, Any] = {"epochs": 3, "interval": 1, "step": 0.4, "lr": 0.02}


def zeros(model: nn.Module) -> dict[str, int]:
    return {name: int((each == 0).sum()) for name, each in model.named_parameters() if each.dim() > 1}


def masked(result: Any) -> dict[str, int]:
    found = {name: int((~mask).sum()) for name, mask in result.plan.masks().items()}
    return {name: found.get(name, 0) for name in zeros(result.model)}


def test_it_fulfils_the_protocol() -> None:
    check_method(GradualMagnitude(**SHORT, linear=True))


@pytest.mark.parametrize("policy", ["persist", "after_prune"])
@pytest.mark.parametrize("interval", [1, 2])
def test_the_budgets_sparsity_is_reached_exactly(policy: Any, interval: int) -> None:
    """Also where no choice of masks falls on the last epoch, and masks were lifted since."""
    job = toy_job(toy_cnn(), "sparsity>=70%")
    how = {**SHORT, "interval": interval, "epochs": 2 * interval + 1}
    outcome = GradualMagnitude(**how, reactivation=policy).prune(job)
    counts = sparse_counts(job.graph, outcome.plan)
    left, every = counts.maskable
    assert every - left == int(0.7 * every)
    assert sum(zeros(outcome.model).values()) == every - left
    assert zeros(outcome.model)["head.weight"] == 0


@pytest.mark.parametrize("folder", [False, True])
def test_fine_tuning_ends_with_exactly_the_masked_weights_at_zero(folder: bool, tmp_path: Path) -> None:
    result = edakari.prune(
        toy_cnn(),
        TASK,
        "sparsity>=80%",
        GradualMagnitude(**SHORT),
        finetune=Schedule(epochs=2, lr=0.05, weight_decay=0.1, ema=0.5),
        recalibrate=2,
        reconstruct=True,
        output=tmp_path / "run" if folder else None,
        device="cpu",
    )
    graph = trace(toy_cnn(), TASK.example())
    total = sum(toy_cnn().get_parameter(name).numel() for name in maskable_weights(graph))
    assert zeros(result.model) == masked(result)
    assert sum(masked(result).values()) == int(0.8 * total)
    assert held_masks(result.model) == result.plan.masks()
    pruned = result.report["networks"]
    assert len(pruned) == 3
    if folder:
        again = edakari.load(tmp_path / "run", toy_cnn())
        assert zeros(again) == masked(result)
        events = edakari.core.reading.read_json(tmp_path / "run" / "kept" / "masks.json")
        assert [event["asked"] for event in events] == [0.4, 0.8, 0.8]


def test_masks_hold_in_another_training_loop() -> None:
    pytest.importorskip("timm")
    result = edakari.prune(
        toy_cnn(),
        TASK,
        "sparsity>=80%",
        GradualMagnitude(**SHORT),
        finetune=Schedule(epochs=2, lr=0.05, weight_decay=0.1, ema=0.5),
        fit="timm",
        device="cpu",
    )
    assert zeros(result.model) == masked(result)
    assert sum(masked(result).values()) > 0


@pytest.mark.parametrize(
    ("method", "budget", "others", "error", "said"),
    [
        ("magnitude", "sparsity>=90%", {}, RecipeError, "method 'magnitude' masks no weights"),
        ("magnitude", "macs<=50%, sparsity>=90%", {}, RecipeError, "take 'gradual_magnitude'"),
        ("gradual_magnitude", "macs<=50%", {}, RecipeError, "removes no channels: it meets a sparsity"),
        ("gradual_magnitude", "macs<=50%, sparsity>=90%", {}, RecipeError, "removes no channels"),
        (GradualMagnitude(epochs=4), "sparsity>=95%", {}, RecipeError, "reach a sparsity of 20%.*raise epochs to 20"),
        (
            GradualMagnitude(**SHORT, excluded=("first", "second", "right")),
            "sparsity>=80%",
            {},
            InfeasibleBudget,
            "in excluded layers",
        ),
        (GradualMagnitude(**SHORT, excluded=("frist",)), "sparsity>=80%", {}, PlanError, "did you mean 'first"),
    ],
)
def test_what_cannot_be_is_told_before_training(method: Any, budget: str, others: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        edakari.prune(toy_cnn(), TASK, budget, method, device="cpu", **others)


def test_a_job_with_another_budget_is_an_error() -> None:
    with pytest.raises(BudgetError, match="'sparsity>=90%', not 'macs<="):
        GradualMagnitude().prune(toy_job(toy_cnn(), "macs<=50%"))


def test_a_network_without_convolutions_asks_for_linear_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(edakari.errors.ModelError, match="linear"):
        edakari.prune(model, TASK, "sparsity>=50%", GradualMagnitude(**SHORT), device="cpu")
    result = edakari.prune(model, TASK, "sparsity>=50%", GradualMagnitude(**SHORT, linear=True), device="cpu")
    assert zeros(result.model)["1.weight"] == 768 * 4


def test_baselines_in_one_shot_and_rewound() -> None:
    from edakari.methods.tickets import FixedMasks, one_shot, rewind
    from edakari.train import FitSettings, fit, task_objective

    initial, trained = toy_cnn(1), toy_cnn(2)
    names = maskable_weights(trace(trained, TASK.example()))
    total = sum(trained.get_parameter(name).numel() for name in names)
    for score in ("magnitude", "random", "snip", "grasp", "synflow"):
        kept, every = one_shot(trained, TASK, 0.9, score).counts()
        assert every - kept == int(0.9 * total)
    masks = one_shot(trained, TASK, 0.9)
    ticket = rewind(trained, initial.state_dict(), masks)
    for name, weight in initial.named_parameters():
        assert torch.equal(ticket.get_parameter(name), weight * masks[name] if name in masks else weight)
    settings = FitSettings(device="cpu", progress=False)
    batches = list(TASK.batches("train"))
    hooks = [FixedMasks(ticket, masks)]
    fit(ticket, task_objective(TASK), batches, Schedule(epochs=1, lr=0.1), hooks=hooks, settings=settings)
    assert sum(zeros(ticket).values()) == int(0.9 * total)
    with pytest.raises(edakari.errors.WeightsError, match="no weights of the network"):
        rewind(trained, nn.Linear(2, 2).state_dict(), masks)
    with pytest.raises(PlanError, match="of another network"):
        rewind(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), masks)
