"""What `apply` promises beside exactness: a new module, an ordinary one, and clear refusals."""

from __future__ import annotations

import dataclasses as dc
import sys

import pytest
import timm
import torch
from torch import nn

from edakari.core.layout import axes
from edakari.core.plan import DropBranch, KeepChannels, MaskWeights, Plan
from edakari.errors import PlanError
from edakari.graph import attributes, trace
from edakari.graph.module_attributes import ATTRIBUTES
from edakari.surgery import apply, simulate
from edakari.testing import exactness, random_plan

X = torch.zeros(1, 3, 32, 32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=10)


def test_the_result_is_new_and_shares_nothing():
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = apply(model, random_plan(trace(model, X)))
    with torch.no_grad():
        for tensor in small.state_dict().values():
            tensor.fill_(7)
    assert small.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_plan_that_keeps_everything_changes_no_bit():
    model = network().eval()
    graph = trace(model, X)
    whole = Plan(
        tuple(KeepChannels(g.name, tuple(range(g.size))) for g in graph.groups), graph.fingerprint, graph.inputs
    )
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(apply(model, whole)(x), expected)
        assert torch.equal(simulate(model, whole)(x), expected)


def test_plans_one_after_another_equal_the_joined_plan():
    model = network().double().eval()
    first = random_plan(trace(model, X.double()), 0.7, seed=1)
    smaller = apply(model, first)
    second = random_plan(trace(smaller, X.double()), 0.6, seed=2)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(apply(smaller, second)(x), apply(model, first.then(second))(x))


def test_frozen_parameters_and_dtypes_stay_so():
    model = network().bfloat16()
    model.conv1.weight.requires_grad_(False)
    small = apply(model, random_plan(trace(model, X.bfloat16())))
    assert not small.conv1.weight.requires_grad
    assert small.fc.weight.requires_grad
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}


def test_a_plan_fits_the_network_in_another_precision():
    model = network()
    plan = random_plan(trace(model, X))
    assert apply(model.double(), plan).eval()(X.double()).dtype == torch.float64


def test_modules_say_their_new_widths():
    model = network()
    small = apply(model, random_plan(trace(model, X)))
    assert (small.conv1.out_channels, small.bn1.num_features) == (32, 32)
    assert small.fc.in_features == small.fc.weight.shape[1]


def test_the_result_trains_compiles_and_runs_under_autocast():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, depth=2, img_size=32, patch_size=8).eval()
    small = apply(model, random_plan(trace(model, X)))
    x = torch.randn(2, 3, 32, 32)
    small(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(small(x)).all()
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), small(x))


def test_a_plan_for_another_network_is_refused():
    plan = random_plan(trace(network(), X))
    other = timm.create_model("resnet18", num_classes=11)
    with pytest.raises(PlanError, match="another network"):
        apply(other, plan)
    with pytest.raises(PlanError, match="another network"):
        simulate(other, plan)


def test_a_plan_for_another_size_of_images_is_refused():
    small = {"depth": 2, "num_classes": 3}
    plan = random_plan(trace(timm.create_model("vit_tiny_patch16_224", img_size=32, **small), X))
    other = timm.create_model("vit_tiny_patch16_224", img_size=64, **small)
    with pytest.raises(PlanError, match=r"32, 32.*VisionTransformer.*height \(32\).*make the plan again"):
        apply(other, plan)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (KeepChannels("nowhere", (0,)), "nowhere"),
        (KeepChannels("conv1", (0, 64)), "channel 64"),
        (DropBranch("layer1.0"), "did you mean .layer1.0:branch"),
        (MaskWeights("conv1.weight", "", (64, 3, 7, 7), 0), "without the bits"),
        (MaskWeights("conv1.weight", "", (64, 3, 7), 0), r"shape \[64, 3, 7\], and the parameter \[64, 3, 7, 7\]"),
        (MaskWeights("conv1.wait", "", (64, 3, 7, 7), 0), "did you mean .conv1.weight"),
    ],
)
def test_edits_that_cannot_be_made_are_refused(edit, message):
    model = network()
    plan = dc.replace(random_plan(trace(model, X)), edits=(edit,))
    with pytest.raises(PlanError, match=message):
        apply(model, plan)


class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        y = self.first(x)
        return self.second(y.reshape(x.shape[0], 12, *y.shape[2:]))


def test_a_width_written_into_the_code_stays_whole_with_the_modules_words():
    graph = trace(Stubborn(), X)
    assert graph.groups == ()
    reason = next(unprunable.reason for unprunable in graph.unprunable if unprunable.where == "first.weight[0]")
    assert "(Stubborn) fails without it" in reason
    assert "shape '[1, 12" in reason


def test_attributes_of_ones_own_modules_can_be_mended():
    class Stored(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.both = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1), "12"

        def forward(self, x):
            y = self.first(x)
            return self.second(y.reshape(x.shape[0], int(self.both), *y.shape[2:]))

    model = Stored()
    assert trace(model, X).groups == ()
    try:
        attributes(Stored)(lambda module, widths: {"both": str(module.first.weight.shape[0])})
        plan = random_plan(trace(model, X))
        assert apply(model, plan).both == "6"
    finally:
        del ATTRIBUTES[Stored]
    assert model.both == "12"


class Config:
    def __init__(self):
        self.width = "12"


class Configured(nn.Module):
    """Numbers by all the ways that code has them: shapes, attributes, arithmetic, and one out of sight."""

    def __init__(self):
        super().__init__()
        self.config, self.heads, self.parts = Config(), 4, (12, 8)
        self.embed, self.qkv, self.proj = nn.Linear(3, 24), nn.Linear(24, 72), nn.Linear(24, 24)
        self.pair, self.left, self.right = nn.Linear(24, 20), nn.Linear(12, 12), nn.Linear(8, 12)
        self.hidden, self.out = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.embed(x.flatten(2).transpose(1, 2))
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj((q @ k.transpose(-2, -1)).softmax(-1).matmul(v).transpose(1, 2).reshape(B, N, C))
        left, right = self.pair(x).split(self.parts, -1)
        y = self.left(left) + self.right(right)
        y = self.hidden(y.reshape(B * N, int(self.config.width)))
        return self.out(y[:, : self.parts[0]]).view(B, N, 3)


def test_numbers_in_the_code_follow_what_they_count():
    torch.manual_seed(0)
    model = Configured().double()
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    graph = trace(model, x)
    reasons = {unprunable.where: unprunable.reason for unprunable in graph.unprunable}
    assert "fails without it" in reasons["left.weight[0]"]
    # the code divides the embedding's width into heads, so both are one
    assert [graph[axis.group].kind for axis in axes(graph.layouts["embed.weight"][0])] == ["head", "head_dim"]
    first, second = (axis.group for axis in axes(graph.layouts["pair.weight"][0]))
    for seed in range(5):
        plan = random_plan(graph, keep=(0.3, 0.7), seed=seed)
        small = apply(model, plan)
        assert small.parts == (plan.sizes().get(first, 12), plan.sizes().get(second, 8))
        assert exactness(model, x, plan) < 1e-9


class Switched(nn.Module):
    """What its forward pass does hangs on an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.skip, self.relu = False, True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = self.b(torch.relu(a) if self.relu else torch.tanh(a))
        return self.c(b + a if self.skip else b)


def test_a_network_is_cut_as_it_is_now() -> None:
    model, x = Switched().double().eval(), torch.randn(2, 3, 6, 6).double()
    graph = trace(model, x)
    plan = Plan((KeepChannels("a", (0, 1, 2, 3)), KeepChannels("b", (4, 5, 6, 7))), graph.fingerprint, graph.inputs)
    model.relu = False  # the same groups
    assert exactness(model, x, plan) < 1e-12
    assert exactness(model, x, plan, trace(model, x)) < 1e-12
    model.skip = True  # one group where there were two
    for call in (apply, simulate):
        with pytest.raises(PlanError, match="made for another network"):
            call(model, plan)
    model.skip = False
    model.forward = lambda x: model.c(model.b(model.a(x)) + model.a(x))  # type: ignore[method-assign]
    with pytest.raises(PlanError, match="made for another network"):
        apply(model, plan)


def test_a_graph_of_another_network_is_refused() -> None:
    x = torch.randn(1, 3, 6, 6)
    model, other = Switched(), Switched()
    other.skip, larger = True, Switched()
    larger.b, larger.c = nn.Conv2d(8, 10, 1), nn.Conv2d(10, 4, 1)
    graph = trace(model, x)
    plan = Plan((), graph.fingerprint, graph.inputs)
    for call in (apply, simulate):
        with pytest.raises(PlanError, match=r"'b\.bias' has the shape"):
            call(model, plan, trace(larger, x))
        with pytest.raises(PlanError, match="made for another network"):
            call(model, plan, trace(other, x))
        with pytest.raises(PlanError, match=r"'bias' has the shape \(8,\) in the network and None in the graph"):
            call(nn.Conv2d(3, 8, 1), plan, graph)
        assert torch.equal(call(model, plan, graph)(x), model(x))


def test_a_graph_that_is_handed_in_is_not_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Switched(), torch.randn(1, 3, 6, 6)
    graph = trace(model, x)
    plan = random_plan(graph, 0.5)
    wanted = apply(model, plan)(x)
    monkeypatch.setattr(sys.modules[apply.__module__], "trace", None)
    assert torch.equal(apply(model, plan, graph)(x), wanted)
    assert torch.allclose(simulate(model, plan, graph)(x), wanted, atol=1e-6)
