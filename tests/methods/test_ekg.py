"""EKG: what the specification says, on networks small enough to reckon by hand."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.core.budget import Budget
from edakari.core.method import Outcome, method_named
from edakari.core.plan import Plan
from edakari.cost import bind, dense
from edakari.errors import DataError, EdakariError, InfeasibleBudget, ModelError
from edakari.graph import trace
from edakari.methods.ekg import EnsembleKnowledgePruning, balanced_parts, chosen_teachers
from edakari.methods.knowledge.ensemble import EnsembleSearch, SearchSettings, group_steps
from edakari.methods.knowledge.sites import SiteTaylor
from edakari.methods.knowledge.teacher import Knowledge, distance
from edakari.methods.masking.masks import Masks
from edakari.models import ModelSpec, build
from edakari.surgery import apply
from edakari.testing import ToyTask, check_method, toy_cnn, toy_job
from edakari.train import batch_statistics

SMALL = EnsembleKnowledgePruning(warmup_images=8, search_images=4)


@pytest.mark.parametrize(
    "method",
    [SMALL, dc.replace(SMALL, candidates="all", knowledge="none", lengths="all", search_batch=8, statistics="running")],
)
def test_conformance(method: Any) -> None:
    check_method(method)


def test_it_is_registered() -> None:
    assert method_named("ekg") is EnsembleKnowledgePruning


class Identity(nn.Module):
    """A feature map of 1x1 with two channels that go straight to the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(2, 2, 1, bias=False)
        self.read = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.make.weight.copy_(torch.eye(2)[:, :, None, None])
            self.read.weight.copy_(torch.eye(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 2] of maps [N, 2, 1, 1]."""
        y: torch.Tensor = self.read(self.make(x).mean((2, 3)))
        return y


def site_scores(model: nn.Module, x: torch.Tensor, loss: Any, kept: torch.Tensor | None = None) -> list[float]:
    graph = trace(model, x[:1])
    masks = Masks(model, graph, graph.groups, "hard")
    if kept is not None:
        masks.set(kept)
    with masks.installed():
        row = SiteTaylor(masks).score(lambda: loss(model(x.clone().requires_grad_())))
    return row.tolist()


def test_taylor_scores_by_hand() -> None:
    x, label = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor([0])
    cross = site_scores(Identity(), x, lambda z: functional.cross_entropy(z, label))
    assert cross == pytest.approx([0.731059, 1.462117], abs=1e-6)
    losses = []

    def objective(z: torch.Tensor) -> torch.Tensor:
        losses.append(functional.cross_entropy(z, label) + distance(z, torch.zeros(1, 2)))
        return losses[-1]

    assert site_scores(Identity(), x, objective) == pytest.approx([0.962117, 1.924234], abs=1e-6)
    assert float(losses[0].detach()) == pytest.approx(2.126523, abs=1e-6)


def test_the_absolute_value_is_of_the_batch() -> None:
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).repeat(2, 1, 1, 1)
    found = site_scores(Identity(), x, lambda z: functional.cross_entropy(z, torch.tensor([0, 1]), reduction="sum"))
    assert found == pytest.approx([0.462117, 0.924234], abs=1e-6)


class Unseen(Identity):
    """The same, and its last weight is read by the network itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 2] of maps [N, 2, 1, 1]."""
        return functional.linear(self.make(x).mean((2, 3)), self.read.weight)


def test_a_weight_stands_in_where_no_module_is_seen_to_read() -> None:
    x, label = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor([0])
    found = site_scores(Unseen(), x, lambda z: functional.cross_entropy(z, label))
    assert found == pytest.approx([0.731059, 1.462117], abs=1e-6)


class Coupled(nn.Module):
    """Two tensors of one group: x and x + 0, read by two layers of opposite weights."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.branch = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
        self.one, self.other = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.make.weight.copy_(torch.tensor([[1.0], [1.0]]))
            self.branch.weight.zero_()
            self.one.weight.copy_(torch.tensor([[0.6, 0.2]]))
            self.other.weight.copy_(torch.tensor([[-0.3, 0.1]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [N, 1] of [N, 1]."""
        first = self.make(x)
        second = first + self.branch(x)
        y: torch.Tensor = self.one(first) + self.other(second)
        return y


def test_sites_of_a_coupled_group_do_not_cancel_and_what_is_gone_scores_zero() -> None:
    x = torch.ones(1, 1)
    # gating the first tensor takes the second with it: 0.6 - 0.3; the second alone is -0.3
    assert site_scores(Coupled(), x, lambda z: z.sum()) == pytest.approx([0.6, 0.4])
    assert site_scores(Coupled(), x, lambda z: z.sum(), torch.tensor([True, False]))[1] == 0.0


def test_the_knowledge_is_the_mean_and_stays_where_nothing_changes() -> None:
    outputs = torch.randn(7, 5, 3)
    knowledge = Knowledge(outputs[0].double())
    for each in outputs[1:]:
        knowledge = knowledge.then(each)
    torch.testing.assert_close(knowledge.mean, outputs.double().mean(0), rtol=1e-5, atol=1e-9)
    same = Knowledge(outputs[0].double())
    for _ in range(9):
        same = same.then(outputs[0])
    assert torch.equal(same.mean.float(), outputs[0])


def test_teachers_lie_evenly_by_loss() -> None:
    losses = [0.1, 0.2, 0.35, 0.5, 0.65, 0.9, 1.0, 1.1]
    assert [losses[index] for index in chosen_teachers(losses, 3)] == [0.1, 0.5, 0.65]
    assert [losses[index] for index in chosen_teachers(losses, 3, "interim")] == [0.1, 0.35, 0.65]
    assert sorted(chosen_teachers([0.5] * 5, 3)) == sorted(set(chosen_teachers([0.5] * 5, 3)))
    assert chosen_teachers([0.1, 0.2, 0.3], 5) == [0, 1]


def searched(budget: str = "macs<=50%", **settings: Any) -> tuple[EnsembleSearch, Any]:
    job = toy_job(toy_cnn(), budget)
    parts = balanced_parts(ToyTask().labels("train"), 4, 8, 16, 0)[1]
    masks = Masks(job.model, job.graph, job.graph.groups, "hard")
    search = EnsembleSearch(job, masks, SearchSettings(**settings), list(ToyTask().batches_at("train", parts)))
    return search, bind(job.budget, job.graph)


def test_steps_are_divided_by_the_layers_that_write_a_group() -> None:
    search, _ = searched()
    assert search.descent.steps["stem.0"] == pytest.approx(0.1)
    assert search.descent.steps["first.0"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "count", "coupled"),
    [
        ("edakari:resnet56", 30, {16: 0.0625, 32: 0.03125, 64: 0.02}),
        ("timm:resnet50", 37, {256: 0.05, 512: 0.04, 1024: 0.2 / 7, 2048: 0.05}),
    ],
)
def test_steps_of_the_networks_of_the_paper(name: str, count: int, coupled: dict[int, float]) -> None:
    model = build(ModelSpec(name=name)).eval()
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    steps = group_steps(Masks(model, graph, graph.groups, "hard"), 0.2)
    assert len(steps) == count
    sizes = {group.name: group.size for group in graph.groups}
    assert sum(step < 0.2 for step in steps.values()) == len(coupled)
    assert {sizes[name]: step for name, step in steps.items() if step < 0.2} == pytest.approx(coupled)
    assert [step for step in steps.values() if step >= 0.2] == [0.2] * (count - len(coupled))


def test_the_way_cuts_one_group_at_a_time_down_to_the_budget() -> None:
    search, limits = searched()
    way = search.run(limits)
    costs, before = [], search.start
    for search_step in way[1:]:
        gone = before.mask & ~search_step.mask
        assert not (search_step.mask & ~before.mask).any()
        changed = [g.name for g in search.masks.groups if gone[search.masks.part(g.name)].any()]
        assert changed == [search_step.step.group]
        plan = search.plan(search_step)
        costs.append(limits.terms[0][0].total(plan.sizes()))
        assert costs[-1] == dense(trace(apply(search.masks.model, plan), ToyTask().example()))["macs"]
        before = search_step
    assert all(after < earlier for earlier, after in itertools.pairwise(costs))
    sizes, last = search.plan(way[-1]).sizes(), way[-1].step.group
    assert limits.excess(sizes) <= 0
    assert limits.excess({**sizes, last: sizes[last] + 1}) > 0


@pytest.mark.parametrize("budget", ["macs<=60%, params<=55%", "latency<=55%, params<=90%"])
def test_several_budgets_are_all_met(budget: str) -> None:
    job = toy_job(toy_cnn(), budget)
    plan = SMALL.prune(job).plan
    assert bind(job.budget, job.graph, job.costs).excess(plan.sizes()) <= 0


def test_the_reward_is_that_of_the_cut_network() -> None:
    search, limits = searched(knowledge="single")
    search_step = search.run(limits)[1]
    cut = apply(search.masks.model, search.plan(search_step))
    label = aim = torch.zeros(())
    with torch.no_grad(), batch_statistics(cut):
        for batch, aims in zip(search.batches, torch.split(search.first.mean, search.counts), strict=True):
            logits = cut(batch[0])
            label = label + functional.cross_entropy(logits, batch[1], reduction="sum")
            aim = aim + functional.cross_entropy(logits, functional.softmax(aims, 1).float(), reduction="sum")
    count = sum(search.counts)
    assert search_step.loss == pytest.approx(float(label) / count, rel=1e-4)
    assert search_step.step.value == pytest.approx(-float(label + aim) / count, rel=1e-4)


@pytest.mark.parametrize("filtered", [True, False])
def test_weights_statistics_and_modes_stay_and_reuse_changes_nothing(filtered: bool) -> None:
    search, limits = searched(filtered=filtered)
    model = search.masks.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ways = [search.run(limits), searched(filtered=filtered, reuse_bytes=0)[0].run(limits)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert [search_step.step for search_step in ways[0]] == [search_step.step for search_step in ways[1]]
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(*ways, strict=True))


def test_other_limits_take_over_what_stays_the_same() -> None:
    search, limits = searched("macs<=60%")
    whole = search.run(limits)
    scored_steps = search.scored_steps
    tighter = bind(Budget.parse("macs<=45%"), search.job.graph)
    way = search.run(tighter)
    fresh, _ = searched("macs<=60%")
    alone = fresh.run(tighter)
    assert [search_step.step for search_step in way] == [search_step.step for search_step in alone]
    assert search.scored_steps - scored_steps < fresh.scored_steps
    torch.testing.assert_close(search.knowledge.mean, fresh.knowledge.mean)
    again = search.run(limits)
    assert [search_step.step for search_step in again] == [search_step.step for search_step in whole]


class Stopped(Exception):
    pass


def test_a_search_that_was_stopped_goes_on_to_the_same_end(tmp_path: Path) -> None:
    logs: list[str] = []

    def log(stage: str, figures: Mapping[str, float]) -> None:
        logs.append(stage)
        if stage.startswith("step 3:") and len(logs) < 6:
            raise Stopped

    job = dc.replace(toy_job(toy_cnn()), folder=tmp_path, log=log)
    with pytest.raises(Stopped):
        SMALL.prune(job)
    stopped = (tmp_path / "search.safetensors").stat().st_mtime_ns
    outcome = SMALL.prune(dc.replace(toy_job(toy_cnn()), folder=tmp_path, log=lambda stage, figures: None))
    assert (tmp_path / "search.safetensors").stat().st_mtime_ns > stopped
    assert outcome.plan == SMALL.prune(toy_job(toy_cnn())).plan


def test_the_search_data_is_balanced_and_disjoint() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 20))
    warmup, search = balanced_parts(labels, 12, 5, 8, seed=0)
    assert {len(part) for part in search} <= {6, 7}
    used = np.concatenate(warmup), np.concatenate(search)
    assert not set(used[0]) & set(used[1])
    assert [np.bincount(labels[numbers]).tolist() for numbers in used] == [[12] * 5, [5] * 5]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"search_images": 100}, DataError, "class 0 has 16 images"),
        ({"cut": 0.0}, EdakariError, "cut must be above 0 and at most 1, found 0.0"),
        ({"search_images": 0}, EdakariError, "search_images must be at least 1, found 0"),
    ],
)
def test_bad_settings(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        dc.replace(SMALL, **change).prune(toy_job(toy_cnn()))


def test_a_budget_below_one_channel_per_group() -> None:
    with pytest.raises(InfeasibleBudget, match="smallest legal sizes"):
        SMALL.prune(toy_job(toy_cnn(), "macs<=0.05%"))


@pytest.mark.parametrize("filtered", [True, False])
def test_a_search_on_a_network_that_gives_nan_ends_in_words(filtered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    search, limits = searched(filtered=filtered)
    next(search.masks.model.parameters()).data.view(-1)[0] = torch.nan
    with pytest.raises(ModelError, match=r"EKG: the importance of group '.*' is not finite"):
        search.run(limits)
    search, limits = searched(filtered=filtered)
    monkeypatch.setattr(search, "_compare", lambda candidates: (torch.full((len(candidates), 2), torch.nan), {}))
    with pytest.raises(ModelError, match="has a finite loss"):
        search.run(limits)


def remarks(network: nn.Module, **settings: Any) -> tuple[list[str], Outcome]:
    found: list[str] = []
    job = dc.replace(toy_job(network), log=lambda stage, figures: found.append(stage))
    return found, dc.replace(SMALL, **settings).prune(job)


def test_a_network_without_batch_normalisation_works_and_says_so() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 8)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    found, outcome = remarks(network)
    assert any("no batch normalisation: batch statistics" in remark for remark in found)
    assert isinstance(outcome.plan, Plan)
    assert outcome.plan.edits
