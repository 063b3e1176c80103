"""Masks on parameters: a masked network computes as the cut one, and its gradients are those that the mode promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import edakari
from edakari.core.plan import DropBranch, KeepChannels, Plan
from edakari.graph import trace
from edakari.graph.operators import mixed_by
from edakari.methods.masking.consumers import layers_of, structure_of
from edakari.methods.masking.masks import Masks, Mode, maskable
from edakari.methods.masking.straight import Rescaled
from edakari.surgery import apply
from edakari.surgery.masked_reads import READS
from edakari.testing import ToyTask, random_plan, toy_cnn, toy_vit
from edakari.testing.exact import difference, enlivened
from edakari.train import batch_statistics


class Flat(nn.Module):
    """A flatten into a linear layer, and a concatenation in front of a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
        self.up = nn.ConvTranspose2d(11, 7, 2, stride=2)
        self.norm = nn.BatchNorm2d(7)
        self.down = nn.Conv2d(7, 4, 3, stride=8)
        self.fc = nn.Linear(4 * 16, 9)
        self.out = nn.Linear(9, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.left(x), self.right(x).relu()], 1)
        x = self.down(self.norm(self.up(x)).relu()).relu()
        logits: torch.Tensor = self.out(self.fc(x.flatten(1)).relu())
        return logits


class Squeezed(nn.Module):
    """A convolution in 3 groups of several channels, behind a squeeze-and-excitation and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(3, 6, 3, 2, 1)
        self.down, self.up = nn.Linear(12, 5), nn.Linear(5, 12)
        self.grouped, self.norm = nn.Conv2d(18, 12, 3, 2, 1, groups=3), nn.BatchNorm2d(12)
        self.out = nn.Linear(12 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x).relu()
        y = y * self.up(self.down(y.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        y = self.norm(self.grouped(torch.cat([y, self.side(x).relu()], 1))).relu()
        logits: torch.Tensor = self.out(y.flatten(1))
        return logits


class Attention(nn.Module):
    """torch's own attention, which takes its layers apart."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.0)
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(self.embed(x).flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.out(tokens.mean(1))
        return logits


def masks_at(model: nn.Module, plan: Plan, mode: Mode = "soft", scale_norms: bool = False) -> Masks:
    graph = edakari.trace(model, ToyTask().example().to(next(model.parameters())))
    groups = maskable(graph, (*graph.groups, *(branch.group for branch in graph.branches)))
    masks = Masks(model, graph, groups, mode, scale_norms)
    kept = torch.ones(masks.size, dtype=torch.bool)
    for edit in plan.edits:
        part = masks.part(edit.group if isinstance(edit, KeepChannels) else edit.branch)  # type: ignore[union-attr]
        kept[part] = False
        if isinstance(edit, KeepChannels):
            kept[part.start + torch.tensor(edit.indices)] = True
    masks.set(kept)
    return masks


def plan_for(model: nn.Module, seed: int = 0, drop: float = 0.5) -> Plan:
    graph = edakari.trace(model, ToyTask().example().to(next(model.parameters())))
    return random_plan(graph, (0.3, 0.9), seed, maskable(graph, graph.groups), drop)


def images(model: nn.Module) -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(next(model.parameters()))


@pytest.mark.parametrize("network", [toy_cnn, toy_vit, Flat, Squeezed, Attention])
@pytest.mark.parametrize("scale_norms", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_masked_equals_cut(network: Any, scale_norms: bool, training: bool) -> None:
    torch.manual_seed(0)
    model = enlivened(network()).train(training)
    plan = plan_for(model)
    assert len(plan.edits) >= 2
    other = copy.deepcopy(model)
    masks = masks_at(model, plan, scale_norms=scale_norms)
    with masks.installed(), torch.no_grad():
        masked = model(images(model))
    masks_at(other, plan, scale_norms=scale_norms).fold()
    with torch.no_grad():
        cut = apply(other, plan)(images(model))
        plain = other(images(model))
    assert difference(masked, cut) < 1e-12
    assert difference(masked, plain) > 1e-3


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_gradients_of_masked_columns(mode: Mode) -> None:
    model = enlivened(toy_cnn()).train()
    plan = Plan((KeepChannels("first.0", tuple(range(10))),), plan_for(model).fingerprint, plan_for(model).inputs)
    plain = copy.deepcopy(model)
    masks = masks_at(model, plan, mode)
    with masks.installed():
        model(images(model)).square().sum().backward()
    with torch.no_grad():
        plain.second[0].weight[:, 10:] = 0  # type: ignore[index, operator]
    plain(images(model)).square().sum().backward()
    found, wanted = (m.second[0].weight.grad for m in (model, plain))  # type: ignore[index, union-attr]
    assert torch.equal(found[:, :10], wanted[:, :10])
    if mode == "soft":
        assert difference(found, wanted) < 1e-12
        assert bool((found[:, 10:].abs().amax((0, 2, 3)) > 0).all())
    else:
        assert not bool(found[:, 10:].any())
    for producer in (model.first[0].weight, model.first[1].weight, model.first[1].bias):  # type: ignore[index]
        assert not bool(producer.grad[10:].any())  # type: ignore[index, union-attr]
        assert bool(producer.grad[:10].any())  # type: ignore[index, union-attr]


def test_a_dropped_branch_goes_on_getting_gradients_when_soft() -> None:
    model = enlivened(toy_cnn()).train()
    plan = Plan((DropBranch("first:branch"),), plan_for(model).fingerprint, plan_for(model).inputs)
    for mode, alive in (("soft", True), ("hard", False)):
        twin = copy.deepcopy(model)
        with masks_at(twin, plan, mode).installed():  # type: ignore[arg-type]
            twin(images(twin)).square().sum().backward()
        assert bool(twin.second[1].weight.grad.any()) is alive  # type: ignore[index, union-attr]


def scaled_norm(kept: int) -> tuple[nn.Module, Masks]:
    torch.manual_seed(0)
    model = enlivened(toy_cnn()).train()
    plan = Plan((KeepChannels("first.0", tuple(range(kept))),), plan_for(model).fingerprint, plan_for(model).inputs)
    return model, masks_at(model, plan, scale_norms=True)


def test_a_scaled_norm_moves_as_though_the_scale_were_written_into_it() -> None:
    model, masks = scaled_norm(12)  # of 24: the scale is 0.5
    other = copy.deepcopy(model)
    plain = masks_at(other, Plan((KeepChannels("first.0", tuple(range(12))),), *fingerprint(other)))
    gamma, effective = model.second[1].weight, other.second[1].weight  # type: ignore[index]
    with torch.no_grad():
        effective.mul_(0.5)  # type: ignore[operator]
    optimizers = [torch.optim.SGD([weight], lr=0.01, momentum=0.9) for weight in (gamma, effective)]  # type: ignore[list-item]
    for step in range(5):
        for network, hook, optimizer in ((model, masks, optimizers[0]), (other, plain, optimizers[1])):
            optimizer.zero_grad()
            with hook.installed():
                network(images(network)).square().sum().backward()
        if step == 0:
            assert torch.allclose(gamma.grad, 2 * effective.grad, rtol=1e-10)  # type: ignore[union-attr, arg-type, operator]
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(0.5 * gamma, effective, rtol=1e-10)  # type: ignore[operator, arg-type]
    buffers = [
        optimizer.state[weight]["momentum_buffer"]
        for optimizer, weight in zip(optimizers, (gamma, effective), strict=True)
    ]
    assert torch.allclose(buffers[0], 2 * buffers[1], rtol=1e-10)


def test_a_scale_of_zero_passes_no_gradient() -> None:
    gamma = torch.ones(4, requires_grad=True)
    scaled = Rescaled.apply(gamma, 0.0)
    scaled.sum().backward()
    assert scaled.tolist() == [0.0] * 4
    assert gamma.grad is not None
    assert gamma.grad.tolist() == [0.0] * 4


def fingerprint(model: nn.Module) -> tuple[str, Any]:
    plan = plan_for(model)
    return plan.fingerprint, plan.inputs


def test_parameters_stay_what_they_are() -> None:
    model = toy_cnn()
    before = dict(model.named_parameters())
    keys = list(model.state_dict())
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    with masks_at(model, plan_for(model), scale_norms=True).installed():
        model(images(model)).sum().backward()
        copy.deepcopy(model)(images(model))
        assert all(parameter is before[name] for name, parameter in model.named_parameters())
        assert list(model.state_dict()) == keys
        assert all(parameter.grad is not None for parameter in model.parameters())
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    assert not any("weight" in module.__dict__ for module in model.modules())


def test_a_module_that_fails_leaves_no_stand_in() -> None:
    model = toy_cnn()
    with masks_at(model, plan_for(model)).installed(), pytest.raises(RuntimeError):
        model.second[0](torch.zeros(1, 3, 8, 8))  # type: ignore[index, operator]
    assert not any("weight" in module.__dict__ for module in model.modules())


def test_what_queries_and_keys_share_is_closed() -> None:
    graph = edakari.trace(toy_vit(), ToyTask().example())
    closed = structure_of(graph).closed
    assert set(closed) == {group.name for group in graph.groups if group.kind == "head_dim"}
    assert {group.kind for group in maskable(graph, graph.groups)} == {"embedding", "head", "hidden"}


class Mixing(nn.Module):
    """A function over the channels of one convolution, between two others."""

    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.mix = mix
        self.first, self.second, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.out(self.second(x * self.mix(x)).relu())


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: torch.max(x, 1, keepdim=True)[0],
        lambda x: torch.logsumexp(x, 1, keepdim=True),
        lambda x: x.cumsum(1),
        lambda x: x.prod(1, keepdim=True),
        lambda x: torch.aminmax(x, dim=1, keepdim=True).min,
        lambda x: functional.mse_loss(x, x.detach() * 0.5),
        lambda x: x.softmax(1),
    ],
)
def test_groups_whose_positions_an_operator_mixes_are_not_masked(mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
    graph = trace(Mixing(mix), torch.zeros(1, 3, 4, 4))
    assert {"first", "second"} <= {group.name for group in graph.groups}
    assert [group.name for group in maskable(graph, graph.groups)] == ["second"]


def test_every_operator_that_mixes_is_known() -> None:
    # the masked twin looks at a product with a number for the factor that attention takes from its width
    assert {name for name in READS if mixed_by(name) == "nothing"} == {"aten.mul"}


class Added(nn.Module):
    """A layer reads what a product that is added to a bias mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.bias = nn.Parameter(torch.zeros(1, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return torch.baddbmm(self.bias, x, x.transpose(1, 2)) @ self.second(x)


def test_the_inner_dimension_of_a_product_that_is_added_to_something_is_not_masked() -> None:
    graph = trace(Added(), torch.randn(2, 5, 6))
    assert [group.size for group in graph.groups] == [8]
    assert maskable(graph, graph.groups) == ()


def test_pull_adds_decay_to_what_is_masked_only() -> None:
    model, masks = scaled_norm(12)
    weight = model.second[0].weight  # type: ignore[index]
    weight.grad = torch.zeros_like(weight)  # type: ignore[arg-type]
    masks.add_masked_decay(0.5)
    assert torch.equal(weight.grad[:, 12:], 0.5 * weight[:, 12:])  # type: ignore[index]
    assert not bool(weight.grad[:, :12].any())  # type: ignore[index]


class Biased(nn.Module):
    """Convolutions with biases and without norms, and one with both."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 4] of images [N, 3, H, W]."""
        y: torch.Tensor = self.head(self.norm(self.two(self.one(x).relu())).relu().mean((2, 3)))
        return y


@pytest.mark.parametrize("which", ["none", "all", "normed"])
@pytest.mark.parametrize("make", [toy_cnn, Biased])
def test_mask_and_cut_agree_under_statistics_of_the_batch(make: Any, which: str) -> None:
    model = make().double().eval()
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = trace(model, x[:1])
    layers = [layer for layer in layers_of(graph) if which == "all" or (which == "normed" and layer.normed)]
    lengthened = {layer.weight: layer.caller for layer in layers}
    rng = np.random.default_rng(1)
    for group in graph.groups:
        twin = copy.deepcopy(model)
        masks = Masks(twin, graph, graph.groups, "hard", lengthened=lengthened)
        kept = torch.ones(masks.size, dtype=torch.bool)
        part = masks.part(group.name)
        kept[part] = torch.from_numpy(rng.permutation(group.size) < max(1, group.size // 2))
        for module in twin.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 5.0)
        masks.set(kept)
        with torch.no_grad(), batch_statistics(twin), masks.installed():
            masked = twin(x)
        masks.fold()
        plan = Plan(
            (KeepChannels(group.name, tuple(kept[part].nonzero().view(-1).tolist())),), graph.fingerprint, graph.inputs
        )
        small = apply(twin, plan)
        with torch.no_grad(), batch_statistics(small):
            torch.testing.assert_close(small(x), masked, atol=1e-10, rtol=1e-10)


def test_a_lengthened_weight_has_the_norm_of_the_whole() -> None:
    model = Biased()
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    masks = Masks(model, graph, graph.groups, "hard", lengthened={"two.weight": "two"})
    kept = torch.ones(masks.size, dtype=torch.bool)
    kept[:3], kept[-4:] = False, False
    masks.set(kept)
    weight = model.two.weight.detach()
    left = weight[kept[masks.part("two")]][:, kept[masks.part("one")]]
    assert masks.length("two.weight") * float(left.norm()) == pytest.approx(float(weight.norm()))
    assert masks.affected_modules("one") == {"two"}
    assert masks.affected_modules("two") == {"two", "head"}
