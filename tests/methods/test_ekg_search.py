"""EKG's search by the numbers of its specification: costs, candidates, rewards, order, kills, the warm-up's steps."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.core.budget import Limits
from edakari.core.plan import KeepChannels, Plan
from edakari.core.space import Sizes
from edakari.cost import bind, dense
from edakari.errors import ModelError
from edakari.graph import trace
from edakari.methods.ekg import EnsembleKnowledgePruning, balanced_parts
from edakari.methods.knowledge.ensemble import EnsembleSearch, SearchSettings, SearchStep
from edakari.methods.masking.masks import Masks
from edakari.models import ModelSpec, build
from edakari.solve.greedy import Candidate
from edakari.surgery import apply
from edakari.testing import ToyTask, toy_job
from edakari.train import batch_statistics
from edakari.train.optim import make_optimizer


class Small(nn.Module):
    """A stem, a block with a projection beside it, and a linear layer; quick to search."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(6, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 10, 3, 2, 1), nn.BatchNorm2d(10))
        self.project = nn.Sequential(nn.Conv2d(6, 10, 1, 2), nn.BatchNorm2d(10))
        self.head = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 4] of images [N, 3, 16, 16]."""
        x = self.stem(x)
        x = (self.second(self.first(x)) + self.project(x)).relu()
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


def searched(budget: str = "macs<=50%", folder: Path | None = None, **settings: Any) -> tuple[EnsembleSearch, Limits]:
    job = dc.replace(toy_job(Small(), budget), folder=folder)
    parts = balanced_parts(ToyTask().labels("train"), 4, 8, 16, 0)[1]
    masks = Masks(job.model, job.graph, job.graph.groups, "hard")
    search = EnsembleSearch(job, masks, SearchSettings(**settings), list(ToyTask().batches_at("train", parts)))
    return search, bind(job.budget, job.graph)


# Test 7: the convention of the costs


@pytest.mark.parametrize(
    ("name", "side", "operations", "stored"),
    [("edakari:resnet56", 32, 126_837_376, 860_026), ("timm:resnet50", 224, 4_111_412_224, None)],
)
def test_costs_are_the_authors_without_batch_norms(name: str, side: int, operations: int, stored: int | None) -> None:
    with torch.device("meta"):
        model = build(ModelSpec(name=name)).to("meta").eval()
    values = []

    def wrote(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        values.append(output.numel())

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(wrote) for norm in norms]
    model(torch.zeros(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    found = dense(trace(model, torch.zeros(1, 3, side, side, device="meta")))
    assert found["macs"] + 2 * sum(values) == operations
    if stored is not None:
        assert found["params"] + 2 * sum(norm.num_features for norm in norms) == stored


# Test 8: every candidate costs what its cut network costs


def test_every_candidate_costs_what_its_cut_network_does(monkeypatch: pytest.MonkeyPatch) -> None:
    search, limits = searched("macs<=75%", filtered=False, cut=0.4)
    (cost, limit), compare, best = limits.terms[0], search._compare, search._best_candidate
    predicted: list[float] = []
    masks: list[torch.Tensor] = []

    def look(sizes: Sizes, candidates: Sequence[Candidate]) -> tuple[int, float]:
        for candidate in candidates:
            after = {**sizes, candidate.group: candidate.size}
            predicted.append(cost.total(after))
            assert predicted[-1] < cost.total(sizes)
            # one that would overshoot is walked back up, one channel at a time
            assert candidate.last == (predicted[-1] <= limit)
            assert not candidate.last or cost.total({**after, candidate.group: candidate.size + 1}) > limit
        return best(sizes, candidates)

    def compared(candidates: Sequence[tuple[str, torch.Tensor]]) -> tuple[torch.Tensor, dict[Any, torch.Tensor]]:
        masks.extend(mask for _, mask in candidates)
        return compare(candidates)

    monkeypatch.setattr(search, "_best_candidate", look)
    monkeypatch.setattr(search, "_compare", compared)
    path = search.run(limits)
    assert len(masks) == len(predicted) > len(path)
    plans = [search.plan(SearchStep(mask, 0.0)) for mask in masks]
    for plan, macs in {str(plan.sizes()): (plan, macs) for plan, macs in zip(plans, predicted, strict=True)}.values():
        assert macs == dense(trace(apply(search.masks.model, plan), ToyTask().example()))["macs"]


# Test 9: where a step changes nothing, knowledge and reward are those of the first network


def test_the_reward_of_a_step_that_changes_nothing() -> None:
    search, _ = searched()
    names = [group.name for group in search.masks.groups]
    with search.working():
        for _ in range(4):
            losses, logits = search._compare([(name, search.start.mask) for name in names])
            search.knowledge = search.knowledge.then(search._joined(logits, 0))
        before = torch.cat([search.outputs(search.start.mask)])
    labels = torch.cat([batch[1] for batch in search.batches])
    entropy = -functional.softmax(before, 1) * functional.log_softmax(before, 1)
    reward = -functional.cross_entropy(before, labels) - entropy.sum(1).mean()
    assert torch.equal(search.knowledge.mean.float(), before)
    assert (-losses.sum(1)).tolist() == pytest.approx([float(reward)] * len(names), rel=1e-6)


# Test 14: the order in which candidates are compared


def test_candidates_may_be_compared_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, limits = searched("macs<=70%", filtered=False)
    path = plain.run(limits)
    rng = np.random.default_rng(0)
    search, _ = searched("macs<=70%", filtered=False)
    best = search._best_candidate
    orders = []

    def mixed(sizes: Sizes, candidates: Sequence[Candidate]) -> tuple[int, float]:
        order = rng.permutation(len(candidates))
        orders.append(order.tolist())
        index, reward = best(sizes, [candidates[place] for place in order])
        return int(order[index]), reward

    monkeypatch.setattr(search, "_best_candidate", mixed)
    again = search.run(limits)
    assert any(order != sorted(order) for order in orders)
    assert [each.step for each in again] == [each.step for each in path]
    assert all(torch.equal(a.mask, b.mask) and a.loss == b.loss for a, b in zip(again, path, strict=True))


def test_of_equal_candidates_one_is_chosen_by_name_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    search, limits = searched(filtered=False)
    monkeypatch.setattr(search, "_compare", lambda candidates: (torch.zeros(len(candidates), 2), {}))
    sizes = {group.name: group.size for group in search.masks.groups}
    candidates = [found for group in search.masks.groups if (found := search.descent.next(group, limits, sizes))]
    with search.working():
        chosen = {
            order[search._best_candidate(sizes, order)[0]].group
            for order in (candidates, candidates[::-1], candidates[1:] + candidates[:1])
        }
    assert chosen == {max(candidate.group for candidate in candidates)}


# Test 15: killed between two candidates


class Killed(Exception):
    """The power goes."""


@pytest.mark.parametrize("batch", [0, 1])
def test_a_search_that_is_killed_between_candidates_goes_on_as_if_it_were_not(batch: int, tmp_path: Path) -> None:
    whole, limits = searched("macs<=60%", filtered=False)
    path = whole.run(limits)
    search, _ = searched("macs<=60%", tmp_path, filtered=False)
    terms, looks = search.terms, []

    def breaking(outputs: torch.Tensor, index: int) -> torch.Tensor:
        if search.scored_steps == 3 and not outputs.requires_grad:
            looks.append(index)
            if looks.count(batch) == 2:
                raise Killed
        return terms(outputs, index)

    search.terms = breaking  # type: ignore[method-assign]
    with pytest.raises(Killed):
        search.run(limits)
    resumed, _ = searched("macs<=60%", tmp_path, filtered=False)
    assert len(resumed.search_steps) == 2
    again = resumed.run(limits)
    assert resumed.scored_steps == whole.scored_steps - 2
    assert [(each.step, each.loss) for each in again] == [(each.step, each.loss) for each in path]
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(again, path, strict=True))
    assert torch.equal(resumed.knowledge.mean, whole.knowledge.mean)


# Test 13: masked and cut networks agree under statistics of the batch, also behind a projection


@pytest.mark.parametrize("lengths", ["none", "norms", "all"])
def test_mask_and_cut_agree_where_a_projection_writes_into_the_stream(lengths: Any) -> None:
    job = toy_job(Small())
    job.model.double()
    method = EnsembleKnowledgePruning(lengths=lengths)
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for module in job.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 5.0)
    assert {group.name: group.size for group in job.groups}["second.0"] == 10  # `project` writes the same channels
    kept = {group.name: tuple(range(0, group.size, 2)) for group in job.groups}
    for names in (*([group.name] for group in job.groups), list(kept)):
        masks = Masks(job.model, job.graph, job.groups, "hard", lengthened=method._lengthened(job))
        mask = torch.ones(masks.size, dtype=torch.bool)
        for name in names:
            part = masks.part(name)
            mask[part] = False
            mask[part.start + torch.tensor(kept[name])] = True
        with torch.no_grad(), masks.installed():
            masks.set(mask)
            masked = batch_outputs(job.model, x)
        twin = Masks(model := Small().double(), job.graph, job.groups, "hard", lengthened=method._lengthened(job))
        model.load_state_dict(job.model.state_dict())
        twin.set(mask)
        twin.fold()
        edits = tuple(KeepChannels(name, kept[name]) for name in names)
        small = apply(model, Plan(edits, job.graph.fingerprint, job.graph.inputs), job.graph)
        torch.testing.assert_close(batch_outputs(small, x), masked, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def batch_outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Outputs under the statistics of the batch."""
    with batch_statistics(model):
        outputs: torch.Tensor = model(x)
    return outputs


# Section 4.1: the steps of the warm-up


def test_the_warm_up_makes_the_authors_steps() -> None:
    schedule = EnsembleKnowledgePruning().warmup_schedule
    torch.manual_seed(0)
    x, labels = torch.randn(3, 256, 5), torch.randint(0, 4, (3, 256))
    ours, theirs = torch.randn(4, 5, requires_grad=True), torch.zeros(4, 5, requires_grad=True)
    theirs.data = ours.data.clone()
    optimizer = make_optimizer([ours], schedule)
    authors = torch.optim.SGD([theirs], 1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for images, classes in zip(x, labels, strict=True):
        optimizer.zero_grad()
        authors.zero_grad()
        functional.cross_entropy(images @ ours.T, classes).backward()
        (functional.cross_entropy(images @ theirs.T, classes, reduction="sum") / 128).backward()
        optimizer.step()
        authors.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert schedule.lr_curve.rate(schedule.lr, 9, 10, 1) == schedule.lr


def test_the_warm_up_is_one_pass_by_that_schedule() -> None:
    job, asked = toy_job(Small()), []

    def fit(model: nn.Module, objective: Any, schedule: Any, **options: Any) -> None:
        asked.append((schedule, len(options["batches"])))
        raise ModelError("enough")

    method = EnsembleKnowledgePruning(warmup_images=8, search_images=4, search_batch=16)
    with pytest.raises(ModelError, match="enough"):
        method.prune(dc.replace(job, fit=fit))
    assert asked == [(method.warmup_schedule, 2)]
    assert asked[0][0].epochs == 1
