"""The oracle: a cut network gives the outputs of the dense one with the removed parts masked where they are read."""

from __future__ import annotations

import dataclasses as dc

import pytest
import timm
import torch
import torchvision
from torch import nn

from edakari.core.plan import KeepChannels, Plan
from edakari.cost import COSTS, dense
from edakari.errors import ModelError
from edakari.graph import trace
from edakari.surgery import apply, simulate
from edakari.testing import AWKWARD, difference, enlivened, exactness, random_plan

TOLERANCE = 1e-9
PLANS = 5

SIZE = 64
ARCHITECTURES = (
    "timm:resnet18",
    "timm:resnet50",
    "torchvision:resnet18",
    "timm:resnext26ts",
    "timm:resnext50_32x4d",
    "torchvision:vgg11_bn",
    "torchvision:mobilenet_v2",
    "timm:mobilenetv2_035",
    "timm:mobilenetv3_small_050",
    "torchvision:mobilenet_v3_small",
    "timm:efficientnet_b0",
    "torchvision:densenet121",
    "timm:regnetx_002",
    "timm:regnety_002",
    "torchvision:shufflenet_v2_x0_5",
    "timm:convnext_atto",
    "torchvision:convnext_tiny",
    "timm:vit_tiny_patch16_224",
    "torchvision:vit_b_32",
    "timm:deit_tiny_patch16_224",
    "timm:deit_tiny_distilled_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "torchvision:swin_t",
    "timm:hrnet_w18_small",
    "timm:poolformer_s12",
    "timm:nf_resnet26",
)

SMALL: dict[str, dict[str, int]] = {
    "timm:vit_tiny_patch16_224": {"img_size": 64},
    "torchvision:vit_b_32": {"image_size": 64},
    "timm:deit_tiny_patch16_224": {"img_size": 64},
    "timm:deit_tiny_distilled_patch16_224": {"img_size": 64},
    # 16, 8, 4 and 2 positions in windows of 2, as 56, 28, 14 and 7 in windows of 7: the last one shifts nothing
    "timm:swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2},
    "torchvision:swin_t": {},  # of which it pads 16 and 8 to whole windows
}
"""What makes transformers of their networks for these images; `-m slow` takes them at 224."""


def build(name: str, options: dict[str, int]) -> nn.Module:
    source, _, short = name.partition(":")
    torch.manual_seed(0)
    if source == "timm":
        return timm.create_model(short, num_classes=10, **options)
    return torchvision.models.get_model(short, num_classes=10, **options)


def worst_error(model: nn.Module, x: torch.Tensor, plans: int = PLANS) -> float:
    graph = trace(model, x[:1])
    worst = 0.0
    for seed in range(plans):
        plan = random_plan(graph, keep=(0.3, 0.7), seed=seed, drop=0.3 if seed % 2 else 0.0)
        assert COSTS["params"](graph).total(plan.sizes()) < dense(graph)["params"]
        if seed:  # inputs that nothing was traced with
            cut, masked, other = apply(model, plan, graph), simulate(model, plan, graph), torch.randn_like(x)
            with torch.no_grad():
                worst = max(worst, difference(cut(other), masked(other)))
        else:
            worst = max(worst, exactness(model, x, plan, graph))
    return worst


HEAVY = {
    *SMALL,
    "torchvision:vgg11_bn",
    "torchvision:densenet121",
    "torchvision:convnext_tiny",
    "timm:resnet50",
    "timm:resnext50_32x4d",
}
"""A plan of these takes seconds."""


def architecture_error(name: str, plans: int, size: int, options: dict[str, int]) -> float:
    x = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return worst_error(enlivened(build(name, options)), x, plans)


QUICK = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("torchvision:vgg11_bn", "torchvision:vit_b_32") else name
    for name in ARCHITECTURES
]


@pytest.mark.parametrize("name", QUICK)
def test_cut_networks_equal_masked_networks(name):
    plans, options = 1 if name in HEAVY else PLANS, SMALL.get(name, {})
    assert architecture_error(name, plans, SIZE, options) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HEAVY))
def test_cut_networks_equal_masked_networks_for_every_plan(name):
    assert architecture_error(name, PLANS, 224 if name in SMALL else SIZE, {}) < TOLERANCE


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_networks_are_cut_exactly(name):
    torch.manual_seed(0)
    model = enlivened(AWKWARD[name]())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert worst_error(model, x) < TOLERANCE


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.inner = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        y = self.inner(torch.relu(self.second(torch.flip(self.first(x), (1,)))))
        return self.out(torch.linalg.matrix_exp(y / 100))


def test_operators_without_a_rule_pin_with_reason_and_place():
    graph = trace(Unknown(), torch.zeros(1, 3, 16, 16))
    reasons = {unprunable.where: unprunable.reason for unprunable in graph.unprunable}
    assert [group.name for group in graph.groups] == ["second"]
    assert "aten.flip" in reasons["first.weight[0]"]
    assert "aten.linalg_matrix_exp" in reasons["inner.weight[0]"]
    assert "no rule" in reasons["inner.weight[0]"]
    torch.manual_seed(0)
    assert worst_error(enlivened(Unknown()), torch.randn(2, 3, 16, 16, dtype=torch.float64)) < TOLERANCE


class SeveralPaths(nn.Module):
    """Takes another path for each flag; traced with none."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.spare, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x, way=""):
        before = self.first(x).relu()
        return self.head(WAYS[way](self, before, self.second(before)).mean((2, 3)))


WAYS = {
    "": lambda net, a, b: b,
    "twice": lambda net, a, b: 2 * b,
    "softmax": lambda net, a, b: b.softmax(1),
    "shortcut": lambda net, a, b: a + b,
    "halves": lambda net, a, b: torch.cat(b.chunk(2, 1)[::-1], 1),
    "shuffle": lambda net, a, b: b.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2),
    "sort": lambda net, a, b: b.sort(1)[0],
    "spare": lambda net, a, b: net.spare(b),
    "norm": lambda net, a, b: nn.functional.group_norm(b, 2),
}
SAME_USE = ("", "twice", "softmax")


@pytest.mark.parametrize("edited", [("first", "second"), ("first",), ("second",)], ids="+".join)
@pytest.mark.parametrize("way", WAYS)
def test_on_a_path_that_was_not_traced_the_masked_network_agrees_or_says_so(way, edited):
    torch.manual_seed(0)
    model, x = enlivened(SeveralPaths()), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    graph = trace(model, x)
    plan = random_plan(graph, keep=0.5)
    plan = dc.replace(plan, edits=tuple(edit for edit in plan.edits if edit.group in edited))
    cut, masked = apply(model, plan, graph), simulate(model, plan, graph)
    joins = way == "shortcut" or (way not in SAME_USE and "second" in edited)
    if joins:
        with pytest.raises(ModelError, match="in another way than in the trace"):
            masked(x, way)
    else:
        with torch.no_grad():
            assert difference(cut(x, way), masked(x, way)) < TOLERANCE


def test_groups_that_another_path_joins_may_keep_the_same_channels():
    torch.manual_seed(0)
    model, x = enlivened(SeveralPaths()), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    graph = trace(model, x)
    plan = Plan(tuple(KeepChannels(name, (0, 2, 5)) for name in ("first", "second")), graph.fingerprint, graph.inputs)
    with torch.no_grad():
        cut, masked = apply(model, plan, graph)(x, "shortcut"), simulate(model, plan, graph)(x, "shortcut")
    assert difference(cut, masked) < TOLERANCE
