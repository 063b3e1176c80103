"""SMCP and HALP: what their papers say, on networks small enough to reckon by hand."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edakari
from edakari.core.budget import Limits
from edakari.core.choosing import Groups, choose
from edakari.core.method import Outcome, method_named
from edakari.core.plan import DropBranch
from edakari.core.protocols import Schedule, StepState
from edakari.core.space import legal_sizes, limited
from edakari.cost import bind, dense, macs
from edakari.errors import EdakariError, InfeasibleBudget
from edakari.graph import trace
from edakari.methods.halp import HardMaskedPruning, StepRamp, norm_taylor
from edakari.methods.masking.epoch_ramp import EpochRamp, removed_fraction
from edakari.methods.masking.mask_updates import MaskUpdateHook, values_at
from edakari.methods.masking.masks import Masks, maskable
from edakari.methods.masking.prices import one_sided, prices_of
from edakari.methods.masking.step_scores import ScoreAveraging
from edakari.methods.smcp import SoftMaskedPruning, input_taylor
from edakari.solve import solve_choices
from edakari.testing import ToyTask, check_method, random_plan, toy_cnn, toy_job, toy_vit
from edakari.train import FitSettings, fitter

SHORT: dict[str, Any] = {
    "epochs": 8,
    "warmup_epochs": 1,
    "ramp_epochs": 4,
    "freeze_epochs": 2,
    "interval": 3,
    "lr": 0.05,
}


@pytest.mark.parametrize(
    "method",
    [
        SoftMaskedPruning(**SHORT),
        SoftMaskedPruning(**SHORT, remove_branches=True, masks="hard"),
        HardMaskedPruning(epochs=6, milestones=4, milestone_interval=5, lr=0.05),
    ],
)
def test_conformance(method: Any) -> None:
    check_method(method)


def test_both_are_registered() -> None:
    assert method_named("smcp") is SoftMaskedPruning
    assert method_named("halp") is HardMaskedPruning


def test_knapsack_of_two_classes_by_hand() -> None:
    costs = [np.array([1.0, 2, 3]), np.array([0.0, 2, 4])]
    values = [np.array([5.0, 8, 10]), np.array([0.0, 7, 9])]
    best = []
    for budget in range(1, 8):
        picks = solve_choices(costs, values, float(budget))
        best.append(sum(value[pick] for value, pick in zip(values, picks, strict=True)))
    assert best == [5, 8, 12, 15, 17, 17, 19]
    with pytest.raises(InfeasibleBudget):
        solve_choices(costs, values, 0.0)


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [
        ("exp", (0, 0.0363, 0.3153, 0.5871, 0.6977, 0.7)),
        ("exp2", (0, 0.0213, 0.2106, 0.4865, 0.6935, 0.7)),
        ("linear", (0, 0.0125, 0.1375, 0.3875, 0.6875, 0.7)),
    ],
)
def test_schedules(curve: Any, wanted: tuple[float, ...]) -> None:
    ramp = EpochRamp(90, 10, 55, 25, 80, curve)
    found = [1 - ramp.limit(100.0, 30.0, 0, epoch) / 100 for epoch in (9, 10, 20, 40, 64, 65)]
    assert found == pytest.approx(wanted, abs=5e-5)
    assert [ramp.due(160, epoch) for epoch in (9, 10, 64, 65)] == [False, True, True, False]
    assert not ramp.due(161, 20)
    assert [ramp.over(0, epoch) for epoch in (64, 65)] == [False, True]
    assert removed_fraction(curve, 0.7, 99, 56) == pytest.approx(0.7)


def test_phases_may_be_parts_of_an_epoch() -> None:
    ramp = EpochRamp(1, 0.1, 0.25, 0.5, 10, "exp", per_epoch=100)
    assert [step for step in range(1, 101) if ramp.due(step, 0)] == [20, 30, 40, 50]
    assert [ramp.over(step, 0) for step in (49, 50)] == [False, True]
    early, late = (ramp.limit(100.0, 30.0, step, 0) for step in (34, 35))
    assert 30 < early < 100
    assert late == 30


def test_steps_of_halp_end_at_the_budget() -> None:
    ramp = StepRamp(2, 40, start=10)
    assert [ramp.limit(100.0, 25.0, step - 1, 0) for step in (50, 90)] == pytest.approx([50, 25])
    assert [step for step in range(200) if ramp.due(step, 0)] == [50, 90]
    assert [ramp.over(step, 0) for step in (89, 90)] == [False, True]


class Regrowth(nn.Module):
    """y = w1 x1 + w2 x2, and a branch of the same width, so that the two channels make a group."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(2, 2, bias=False)
        self.read = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.make.weight.copy_(torch.eye(2))
            self.read.weight.copy_(torch.tensor([[0.5, 0.1]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.read(self.make(x))
        return y


@pytest.mark.parametrize(("mode", "updates", "swaps"), [("soft", 0, False), ("soft", 1, False), ("soft", 2, True)])
def test_a_masked_weight_comes_back_by_hand(mode: Any, updates: int, swaps: bool) -> None:
    scores = revival_scores(mode, updates)
    assert scores == pytest.approx({0: (0.25, 0.1), 1: (0.2025, 0.2), 2: (0.164, 0.3)}[updates], abs=1e-3)
    assert (scores[1] > scores[0]) is swaps


def test_a_hard_masked_weight_never_comes_back_by_hand() -> None:
    assert revival_scores("hard", 5)[1] == 0


def revival_scores(mode: Any, updates: int) -> tuple[float, ...]:
    """Scores after some steps on the expected loss: inputs whose covariance is the identity."""
    model = Regrowth()
    graph = trace(model, torch.zeros(1, 2))
    masks = Masks(model, graph, graph.groups, mode)
    masks.set(torch.tensor([True, False]))
    x = torch.eye(2) * 2**0.5
    for update in range(updates + 1):
        model.zero_grad()
        with masks.installed():
            (0.5 * (model(x)[:, 0] - x[:, 1]).square().mean()).backward()
        if update == 0 and mode == "soft":
            assert model.read.weight.grad is not None
            assert model.read.weight.grad[0].tolist() == pytest.approx([0.5, -1.0])
        figures = input_taylor(masks)
        assert figures is not None
        with torch.no_grad():
            model.read.weight -= 0.1 * model.read.weight.grad  # type: ignore[operator]
    return tuple(figures.abs().tolist())


def chain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize(("share", "estimate"), [(1.0, 16), (0.5, 13), (0.0, 10)])
def test_one_sided_prices_of_a_chain_by_hand(share: float, estimate: float) -> None:
    graph = trace(chain(), torch.zeros(1, 3, 1, 1))
    (group,) = graph.groups
    fixed, curves = prices_of(graph, share, graph.groups, {group.name: 4})
    assert fixed + curves[group.name][4] == macs(graph).total({}) == 20
    assert fixed + curves[group.name][2] == estimate
    assert macs(graph).total({group.name: 2}) == 10


def test_costs_of_a_convolution_by_hand() -> None:
    graph = trace(
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 1, 1)), torch.zeros(1, 1, 5, 5)
    )
    first, second = (group.name for group in graph.groups)
    cost = macs(graph)
    ends = 25 * 4 + 25 * 8
    assert cost.total({}) - ends == 7200
    assert cost.total({first: 2, second: 6}) - 25 * 2 - 25 * 6 == 2700


@pytest.mark.parametrize("name", ["timm:resnet50", "timm:mobilenetv2_100"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_prices_add_up_to_the_true_cost_where_sizes_are(name: str, share: float) -> None:
    with torch.device("meta"):
        model = edakari.build(name)
    graph = trace(model, torch.zeros(1, 3, 224, 224, device="meta"))
    sizes = {**{group.name: group.size for group in graph.groups}, **random_plan(graph, (0.3, 1.0), drop=0.2).sizes()}
    for some in (graph.groups, graph.groups[3:]):
        fixed, curves = prices_of(graph, share, some, sizes)
        found = fixed + sum(curves[group.name][sizes[group.name]] for group in some)
        assert found == pytest.approx(macs(graph).total(sizes), rel=1e-12)


class Inverted(nn.Module):
    """A depthwise convolution beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.block = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        found: torch.Tensor = self.head(x + self.block(x))
        return found


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_branches_that_are_not_allocated_change_no_price(share: float) -> None:
    graph = trace(Inverted(), torch.zeros(1, 3, 5, 5))
    assert graph.branches
    sizes = {group.name: group.size for group in graph.groups}
    fixed, curves = prices_of(graph, share, graph.groups, sizes)
    plain, expected = prices_of(dc.replace(graph, branches=(), paths=()), share, graph.groups, sizes)
    assert fixed == plain
    for name, curve in curves.items():
        assert curve.tolist() == expected[name].tolist(), name
    (middle,) = (group.name for group in graph.groups if group.size == 6)
    # 25 positions: the depthwise convolution's 9 products a channel, and shares of both sides' 4
    assert curves[middle][6] - curves[middle][5] == 25 * (9 + 4 * (1 - share) + 4 * share)


def test_groups_of_resnet_50() -> None:
    with torch.device("meta"):
        model = edakari.build("timm:resnet50")
    graph = trace(model, torch.zeros(1, 3, 224, 224, device="meta"))
    assert round(macs(graph).total({}) / 1e9, 4) == 4.0892
    # 38 with the input and the output of the network, of which 36 can be pruned if the stem stays, as with the authors
    assert len(maskable(graph, graph.groups)) == 37
    assert len(maskable(graph, choose(graph, Groups(exclude=("conv1",))).every)) == 36
    # differs: the authors may empty each of the 32 groups inside of blocks, and keep a constant. Here whole branches
    # of two such groups go: the 12 beside shortcuts that are identities
    inside = [group for group in graph.groups if group.name.endswith((".conv1", ".conv2"))]
    assert len(inside) == 32
    assert len(graph.branches) == 12
    with torch.device("meta"):
        model = edakari.build("timm:mobilenetv1_100")
    graph = trace(model, torch.zeros(1, 3, 224, 224, device="meta"))
    assert len(maskable(graph, graph.groups)) == 14


class Coupled(nn.Module):
    """Two layers that read the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)
        self.out = nn.Conv2d(10, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.make(x)
        y: torch.Tensor = self.out(torch.cat([self.left(hidden), self.right(hidden)], 1))
        return y


def coupled() -> tuple[Coupled, Masks]:
    torch.manual_seed(0)
    model = Coupled()
    graph = trace(model, torch.zeros(1, 3, 4, 4))
    masks = Masks(model, graph, maskable(graph, graph.groups))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model, masks


def test_opposite_importances_of_coupled_readers_cancel() -> None:
    model, masks = coupled()
    with torch.no_grad():
        model.right.weight.copy_(model.left.weight)
        model.right.weight.grad = -model.left.weight.grad  # type: ignore[operator]
    figures = input_taylor(masks)
    assert figures is not None
    assert figures[masks.part("make")].abs().max() < 1e-6
    assert figures[masks.part("left")].abs().min() > 1e-6


def test_rows_that_are_masked_do_not_count() -> None:
    model, masks = coupled()
    kept = masks.mask.clone()
    kept[masks.part("left").start + 2] = False
    masks.set(kept)
    figures = input_taylor(masks)
    product = {name: (layer.weight * layer.weight.grad)[..., 0, 0] for name, layer in model.named_children()}  # type: ignore[operator, index]
    product["left"][2] = 0
    wanted = -(product["left"].sum(0) + product["right"].sum(0))
    assert figures is not None
    assert torch.allclose(figures[masks.part("make")], wanted)


class Grouped(nn.Module):
    """Two groups on one dimension: convolution groups, and channels within them; perhaps behind a concatenation."""

    def __init__(self, channels: int, groups: int, concat: bool) -> None:
        super().__init__()
        self.concat = concat
        self.first = nn.Conv2d(3, channels, 1)
        self.grouped = nn.Conv2d(channels, 12, 3, padding=1, groups=groups)
        self.side = nn.Conv2d(3, 5, 1)
        self.out = nn.Conv2d(17 if concat else 12, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.grouped(self.first(x).relu()).relu()
        hidden = torch.cat([self.side(x), hidden], 1) if self.concat else hidden
        y: torch.Tensor = self.head(self.out(hidden).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (6, 3), (4, 4), (12, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_importance_is_the_derivative_by_a_gate(channels: int, groups: int, concat: bool, seed: int) -> None:
    torch.manual_seed(seed)
    model = Grouped(channels, groups, concat).double()
    images, labels = torch.randn(8, 3, 5, 5).double(), torch.arange(8) % 4
    graph = trace(model, images[:1])
    chosen = maskable(graph, graph.groups)
    soft, hard = Masks(model, graph, chosen, "soft"), Masks(model, graph, chosen, "hard")
    kept = torch.rand(soft.size) < 0.6
    for group in chosen:
        kept[soft.part(group.name).start] = True
    soft.set(kept)
    with soft.installed():
        nn.functional.cross_entropy(model(images), labels).backward()
    found = input_taylor(soft)
    gates = kept.double().requires_grad_()
    hard.gate(gates)
    with hard.installed():
        nn.functional.cross_entropy(model(images), labels).backward()
    assert gates.grad is not None
    assert (gates.grad > 0).any()
    assert (gates.grad < 0).any()
    assert found is not None
    assert torch.allclose(found.double(), -gates.grad, rtol=1e-4, atol=1e-7)


def test_importance_of_halp_sums_scales_and_shifts_of_all_producers() -> None:
    model = toy_cnn()
    graph = trace(model, ToyTask().example())
    masks = Masks(model, graph, maskable(graph, graph.groups), "permanent")
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    norms = [model.stem[1], model.second[1]]  # type: ignore[index]
    wanted = -sum(p * p.grad for norm in norms for p in (norm.weight, norm.bias))  # type: ignore[misc, union-attr, operator]
    figures = norm_taylor(masks)
    assert figures is not None
    assert torch.allclose(figures[masks.part("stem.0")], wanted)  # type: ignore[arg-type]
    del model.stem[1].weight.grad  # type: ignore[index, union-attr]
    assert norm_taylor(masks) is None


def rewired(
    averaging: ScoreAveraging | None = None, budget: str = "macs<=50%", interval: int = 2
) -> tuple[nn.Module, MaskUpdateHook]:
    model = toy_cnn()
    job = toy_job(model, budget)
    masks = Masks(model, job.graph, maskable(job.graph, job.groups))
    ramp = EpochRamp(100, 0, 1, 0, interval)
    return model, MaskUpdateHook(masks, job, ramp, input_taylor, averaging or ScoreAveraging())


def step(model: nn.Module, hook: MaskUpdateHook, state: StepState, poison: bool = False) -> None:
    hook.before_step(state)
    state.optimizer.zero_grad()
    images, labels = next(iter(ToyTask().batches("train")))
    with hook.masks.installed():
        nn.functional.cross_entropy(model(images), labels).backward()
    weight = model.get_parameter("second.0.weight")
    before = weight.detach().clone()
    if poison:
        weight.grad[:] = torch.nan  # type: ignore[index]
    state.optimizer.step()
    with torch.no_grad():
        weight.copy_(before)
    hook.after_step(state)
    state.step += 1


def test_masks_that_fall_due_without_finite_gradients_wait() -> None:
    model, hook = rewired(ScoreAveraging(average="latest"))
    state = StepState(model, torch.optim.SGD(model.parameters(), lr=0.0), 0, 0)
    seen = []
    for poison in (False, True, True, False, False):
        step(model, hook, state, poison)
        seen.append(hook.rounds)
    assert seen == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("average", ["average", "signed_average", "squares", "momentum", "latest"])
def test_averages_agree_on_equal_steps(average: Any) -> None:
    model, hook = rewired(ScoreAveraging(average=average))
    model.eval()
    state = StepState(model, torch.optim.SGD(model.parameters(), lr=0.0), 0, 0)
    for _ in range(2):
        step(model, hook, state)
    images, labels = next(iter(ToyTask().batches("train")))
    model, _ = rewired()
    masks = Masks(model, hook.masks.graph, hook.masks.groups)
    nn.functional.cross_entropy(model.eval()(images), labels).backward()
    figures = input_taylor(masks)
    assert figures is not None
    share = 1 - 0.9**2 if average == "momentum" else 1.0
    wanted = figures.square() if average == "squares" else share * figures.abs()
    assert torch.allclose(hook.scores.final(hook.masks.mask)[0].float(), wanted, rtol=1e-4)


def test_signed_revival_counts_only_what_lowers_the_loss() -> None:
    _, hook = rewired(ScoreAveraging(regrowth="signed"))
    kept = hook.masks.mask.clone()
    kept[:2] = False
    hook.masks.set(kept)
    figures = torch.tensor([1.0, -2.0, 3.0, -4.0, *[0.0] * (hook.masks.size - 4)])
    assert hook.scores.worth(figures, kept)[:4].tolist() == [1, 0, 3, 4]


def test_a_branch_is_worth_the_groups_inside_of_it() -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    masks = Masks(toy_cnn(), graph, (*graph.groups, graph.branches[0].group))
    values = values_at(masks, torch.ones(masks.size, dtype=torch.float64))
    assert values["first:branch"].tolist() == [0, 1 + 24]
    assert values["first.0"][-1] == 24


def test_a_branch_is_worth_the_scarce_values_of_the_groups_inside_of_it() -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    masks = Masks(toy_cnn(), graph, (*graph.groups, graph.branches[0].group))
    scores = torch.rand(masks.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain, values = values_at(masks, scores), values_at(masks, scores, scarcity=2.0)
    own = np.sort(scores[masks.part("first.0")].numpy())[::-1]
    assert values["first.0"][-1] == pytest.approx((own * (own.cumsum() / own.sum()) ** -2.0).sum())
    gain = values["first.0"][-1] - plain["first.0"][-1]
    assert values["first:branch"] == pytest.approx(plain["first:branch"] + [0, gain])


class Normalised(nn.Module):
    """A hidden layer whose only reader is normalised, and an output whose reader is not."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, bias=False)
        self.norm, self.head = nn.BatchNorm2d(6, eps=1e-12), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.norm(self.read(self.make(x).relu())).relu().mean((2, 3)))
        return y


def test_first_order_scores_of_a_group_behind_which_a_norm_follows_add_up_to_nothing() -> None:
    torch.manual_seed(0)
    model = Normalised().double()
    graph = trace(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    masks = Masks(model, graph, maskable(graph, graph.groups), scale_norms=False)
    with masks.installed():
        model.train()
        loss = nn.functional.cross_entropy(model(torch.randn(16, 3, 6, 6, dtype=torch.float64)), torch.arange(16) % 4)
        loss.backward()
        figures = input_taylor(masks)
    assert figures is not None
    hidden, seen = figures[masks.part("make")], figures[masks.part("read")]
    # a normalised layer does not see how long its weights are, so that the sum says nothing of the whole group
    assert hidden.abs().max() > 1e-3
    assert abs(hidden.sum()) < 1e-5 * hidden.abs().sum()
    assert abs(seen.sum()) > 1e-2 * seen.abs().sum()


def pruned(method: Any, budget: str = "macs<=50%", **changes: Any) -> tuple[Outcome, list[Mapping[str, float]]]:
    seen: list[Mapping[str, float]] = []
    job = toy_job(toy_cnn(), budget)
    return method.prune(dc.replace(job, log=lambda stage, figures: seen.append(figures), **changes)), seen


@pytest.mark.parametrize("pricing", ["coupled", "one_sided"])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_budget_is_met_and_used(pricing: Any, share: float) -> None:
    outcome, _ = pruned(SoftMaskedPruning(**SHORT, pricing=pricing), f"macs<={share:.0%}")
    cost = (
        dense(trace(outcome.model, ToyTask().example()))["macs"] / dense(trace(toy_cnn(), ToyTask().example()))["macs"]
    )
    assert 0.97 * share <= cost <= share


def test_sizes_keep_to_their_steps() -> None:
    job = toy_job(toy_cnn())
    outcome, _ = pruned(SoftMaskedPruning(**SHORT), groups=limited(job.groups, round_to=4))
    legal = {group.name: legal_sizes(group) for group in limited(job.groups, round_to=4)}
    assert all(size in legal[name] for name, size in outcome.plan.sizes().items())


def test_soft_masks_revive_and_permanent_ones_do_not() -> None:
    regrown = {}
    for mode in ("soft", "permanent"):
        _, seen = pruned(SoftMaskedPruning(**SHORT, masks=mode))  # type: ignore[arg-type]
        regrown[mode] = seen[-1]["regrown"]
    assert regrown["soft"] > 0
    assert regrown["permanent"] == 0


def test_a_branch_may_go_whole() -> None:
    job = toy_job(toy_cnn(), "macs<=60%")
    only = tuple(group for group in job.groups if group.name == "head")
    method = SoftMaskedPruning(**SHORT, remove_branches=True)
    outcome = method.prune(dc.replace(job, groups=only))
    assert outcome.plan.edits == (DropBranch("first:branch"),)
    assert bind(job.budget, job.graph).excess(outcome.plan.sizes()) <= 0


def test_the_pruned_network_is_the_masked_one_in_the_end() -> None:
    job, caught = toy_job(toy_cnn()), []

    def fit(model: nn.Module, *args: Any, hooks: Any = (), **rest: Any) -> None:
        job.fit(model, *args, hooks=hooks, **rest)
        with torch.no_grad():
            caught.append(model(images))

    images = next(iter(ToyTask().batches("val")))[0]
    outcome = SoftMaskedPruning(**SHORT).prune(dc.replace(job, fit=fit))
    with torch.no_grad():
        assert torch.allclose(outcome.model.eval()(images), caught[0], atol=1e-4)


@pytest.mark.parametrize(
    ("last", "changes"),
    [
        (14, {}),  # in the ramp, between two choices of masks
        (14, {"average": "momentum", "regrowth": "signed"}),
        (22, {"masks": "permanent", "average": "signed_average", "pricing": "one_sided"}),
        (29, {}),  # when the network is cut already
        (29, {"remove_branches": True}),
    ],
)
def test_a_resumed_training_chooses_the_same_masks(tmp_path: Path, last: int, changes: Any) -> None:
    method = SoftMaskedPruning(**SHORT, **changes)

    class SearchStep(Exception):
        pass

    def run(folder: Path, last: int | None = None) -> Outcome:
        job = toy_job(toy_cnn())
        plain = fitter(ToyTask(), FitSettings(folder=folder, device="cpu", progress=False, checkpoint_steps=5))

        def fit(model: nn.Module, objective: Any, schedule: Schedule, **rest: Any) -> None:
            count = 0

            def counted(network: nn.Module, batch: Any) -> Any:
                nonlocal count
                count += 1
                if last is not None and count > last:
                    raise SearchStep
                return objective(network, batch)

            plain(model, counted, schedule, **rest)

        return method.prune(dc.replace(job, fit=fit))

    whole = run(tmp_path / "whole")
    with pytest.raises(SearchStep):
        run(tmp_path / "stopped", last=last)
    resumed = run(tmp_path / "stopped")
    assert resumed.plan == whole.plan
    state = whole.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.model.state_dict().items())
    assert run(tmp_path / "whole").plan == whole.plan


def test_mixed_precision_meets_the_budget() -> None:
    fit = fitter(ToyTask(), FitSettings(device="cpu", progress=False))
    for network in (toy_cnn, toy_vit):
        job = dc.replace(toy_job(network()), fit=fit)
        outcome = SoftMaskedPruning(**SHORT, precision="bf16").prune(job)
        assert bind(job.budget, job.graph).excess(outcome.plan.sizes()) <= 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 5, "warmup_epochs": 3, "ramp_epochs": 3, "freeze_epochs": 1}, "ramp_epochs=3"),
        ({"interval": 0}, "interval must be at least 1, found 0"),
        ({"consumer_share": 2.0}, "consumer_share must be at least 0 and at most 1, found 2.0"),
    ],
)
def test_settings_out_of_range_are_named(settings: Any, text: str) -> None:
    with pytest.raises(EdakariError, match=text):
        SoftMaskedPruning(**settings).prune(toy_job(toy_cnn()))


def test_a_budget_out_of_reach_is_refused_before_training() -> None:
    def fit(*args: Any, **rest: Any) -> None:
        raise AssertionError("trained")

    for method in (SoftMaskedPruning(), HardMaskedPruning()):
        with pytest.raises(InfeasibleBudget):
            method.prune(dc.replace(toy_job(toy_cnn(), "macs<=0.1%"), fit=fit))


def test_one_sided_prices_refuse_other_budgets() -> None:
    with pytest.raises(EdakariError, match="params"):
        SoftMaskedPruning(**SHORT, pricing="one_sided").prune(toy_job(toy_cnn(), "params<=50%"))
    graph = trace(chain(), torch.zeros(1, 3, 1, 1))
    (group,) = graph.groups
    least = one_sided(graph, 1.0, [group], {group.name: np.arange(5.0)}, Limits(((macs(graph), 1.0),)), {group.name: 4})
    assert least == {group.name: 1}


def test_phases_that_fit_but_for_the_rounding_of_fractions_are_accepted() -> None:
    full = {"warmup_epochs": 10, "ramp_epochs": 55, "freeze_epochs": 25}
    phases = {name: part / 90 * 3 for name, part in full.items()}
    assert sum(phases.values()) > 3
    SoftMaskedPruning(epochs=3, **phases)._check()  # type: ignore[arg-type]
    with pytest.raises(EdakariError, match="must fit into epochs=3"):
        SoftMaskedPruning(epochs=3, **{**phases, "ramp_epochs": 1.9})._check()  # type: ignore[arg-type]
