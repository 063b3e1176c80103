"""Networks prepared for training with rounded weights and activations are cut with their observers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from edakari.graph import trace
from edakari.surgery import apply, simulate
from edakari.testing import difference, random_plan

quantization = pytest.importorskip("torch.ao.quantization")
learnable = pytest.importorskip("torch.ao.quantization._learnable_fake_quantize")

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Blocks(nn.Module):
    """A convolution, a depthwise and a pointwise one, each with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv1, self.norm1, self.act1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.norm1(self.conv1(self.quant(x))))
        return self.dequant(self.head(self.conv3(self.norm2(self.conv2(x))).mean((2, 3))))


def observed_apart() -> object:
    """Observers that are modules of their own, one scale for each channel of a weight."""
    return quantization.QConfig(
        activation=quantization.FakeQuantize.with_args(observer=quantization.MovingAverageMinMaxObserver),
        weight=quantization.default_per_channel_weight_fake_quant,
    )


CONFIGS = {
    "at once, each channel": lambda: quantization.get_default_qat_qconfig("fbgemm"),
    "at once, all channels": lambda: quantization.get_default_qat_qconfig("qnnpack"),
    "apart, each channel": observed_apart,
}


def prepared(config: object, runs: int = 1) -> nn.Module:
    """A network as it is while it is trained for integers."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torch announces another way of doing this
        torch.manual_seed(0)
        model = Blocks().train()
        fused = quantization.fuse_modules_qat(model, [["conv1", "norm1", "act1"], ["conv2", "norm2"]])
        fused.qconfig = config
        quantization.prepare_qat(fused, inplace=True)
        for _ in range(runs):
            fused(IMAGES)
    return fused.eval()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_observers_are_cut_with_their_layers(name: str, frozen: bool) -> None:
    model = prepared(CONFIGS[name]())
    if frozen:
        model.apply(quantization.disable_observer)
    graph = trace(model, IMAGES)
    assert [(group.name, group.size) for group in graph.groups] == [("conv1", 8), ("conv3", 12)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for seed in range(2):
        plan = random_plan(graph, (0.3, 0.7), seed)
        masked = simulate(model, plan)(IMAGES)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        small = apply(model, plan)
        with torch.no_grad():
            assert difference(small(IMAGES), masked) < 1e-5
        scale = small.conv1.weight_fake_quant.scale
        assert len(scale) == (plan.sizes()["conv1"] if "each" in name else 1)


def test_observers_that_have_seen_nothing_are_cut_too() -> None:
    model = prepared(CONFIGS["at once, each channel"](), runs=0)
    graph = trace(model, IMAGES)
    plan = random_plan(graph, 0.5)
    assert [group.size for group in graph.groups] == [8, 12]
    with torch.no_grad():
        assert difference(apply(model, plan)(IMAGES), simulate(model, plan)(IMAGES)) < 1e-5


def test_observers_that_count_values_leave_channels_free() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.qconfig = quantization.get_default_qconfig("fbgemm")
        quantization.prepare(model, inplace=True)
    model(IMAGES)
    graph = trace(model, IMAGES)
    assert [(group.name, group.size) for group in graph.groups] == [("0", 8)]
    plan = random_plan(graph, 0.5)
    small, masked = apply(model, plan), simulate(model, plan)
    with torch.no_grad():
        assert difference(small(IMAGES), masked(IMAGES)) < 1e-5


class Learned(nn.Module):
    """Scales that are learned, one for each channel of a weight and one for an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        scale, zero = nn.Parameter(torch.rand(8) / 8 + 0.05), nn.Parameter(torch.zeros(8))
        self.scale, self.zero = scale, zero
        self.wide, self.middle = nn.Parameter(torch.tensor([0.1])), nn.Parameter(torch.tensor([0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch._fake_quantize_learnable_per_channel_affine(
            self.conv.weight, self.scale, self.zero, 0, -8, 7, 1.0
        )
        x = nn.functional.conv2d(x, weight, self.conv.bias)
        return self.head(torch._fake_quantize_learnable_per_tensor_affine(x, self.wide, self.middle, -128, 127, 1.0))


def test_learned_scales_are_cut() -> None:
    model = Learned().eval()
    graph = trace(model, IMAGES)
    assert [group.size for group in graph.groups] == [8]
    assert {"scale", "zero"} < {member.tensor for member in graph.members(graph.groups[0].name)}
    plan = random_plan(graph, 0.5)
    with torch.no_grad():
        assert difference(apply(model, plan)(IMAGES), simulate(model, plan)(IMAGES)) < 1e-5
