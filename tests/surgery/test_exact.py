"""The oracle: a cut network gives the outputs of the dense one with the removed parts masked where they are read."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from edakari.graph import trace
from edakari.surgery import apply, simulate
from edakari.testing import random_plan

TOLERANCE = 1e-9
PLANS = 5

ARCHITECTURES = {
    "timm:resnet18": 64,
    "timm:resnet50": 64,
    "torchvision:resnet18": 64,
    "timm:resnext26ts": 64,
    "timm:resnext50_32x4d": 64,
    "torchvision:vgg11_bn": 64,
    "torchvision:mobilenet_v2": 64,
    "timm:mobilenetv2_035": 64,
    "timm:mobilenetv3_small_050": 64,
    "torchvision:mobilenet_v3_small": 64,
    "timm:efficientnet_b0": 64,
    "torchvision:densenet121": 64,
    "timm:regnetx_002": 64,
    "timm:regnety_002": 64,
    "torchvision:shufflenet_v2_x0_5": 64,
    "timm:convnext_atto": 64,
    "torchvision:convnext_tiny": 64,
    "timm:vit_tiny_patch16_224": 224,
    "torchvision:vit_b_32": 224,
    "timm:deit_tiny_patch16_224": 224,
    "timm:deit_tiny_distilled_patch16_224": 224,
    "timm:swin_tiny_patch4_window7_224": 224,
    "torchvision:swin_t": 224,
    "timm:hrnet_w18_small": 64,
    "timm:poolformer_s12": 64,
    "timm:nf_resnet26": 64,
}


def build(name: str) -> nn.Module:
    source, _, short = name.partition(":")
    torch.manual_seed(0)
    if source == "timm":
        return timm.create_model(short, num_classes=10)
    return torchvision.models.get_model(short, num_classes=10)


def trained(model: nn.Module) -> nn.Module:
    """In float64, with biases and statistics that a mask must not let leak."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.5 * noise if parameter.dim() < 2 else 0.04 * (noise - 0.5))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    return model


def tensor_of(output: object) -> torch.Tensor:
    if isinstance(output, dict):
        output = output["out"]
    return output[0] if isinstance(output, tuple) else output


def worst_error(model: nn.Module, x: torch.Tensor, plans: int = PLANS) -> float:
    graph = trace(model, x[:1])
    worst = 0.0
    for seed in range(plans):
        plan = random_plan(graph, keep=(0.3, 0.7), seed=seed)
        small = apply(plan, model)
        with torch.no_grad():
            left, right = tensor_of(small(x)), tensor_of(simulate(plan, model)(x))
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
        assert left.abs().max() > 0
        worst = max(worst, float((left - right).abs().max() / right.abs().max()))
    return worst


HEAVY = {name for name, size in ARCHITECTURES.items() if size > 100} | {
    "torchvision:vgg11_bn",
    "torchvision:densenet121",
    "torchvision:convnext_tiny",
    "timm:resnet50",
    "timm:resnext50_32x4d",
}
"""A plan of these takes seconds."""


def architecture_error(name: str, plans: int) -> float:
    size = ARCHITECTURES[name]
    x = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return worst_error(trained(build(name)), x, plans)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_cut_networks_equal_masked_networks(name):
    assert architecture_error(name, 1 if name in HEAVY else PLANS) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HEAVY))
def test_cut_networks_equal_masked_networks_for_every_plan(name):
    assert architecture_error(name, PLANS) < TOLERANCE


class Unet(nn.Module):
    def __init__(self):
        super().__init__()

        def block(inward, outward):
            return nn.Sequential(nn.Conv2d(inward, outward, 3, 1, 1), nn.BatchNorm2d(outward), nn.ReLU(True))

        self.first, self.second, self.middle = block(3, 8), block(8, 16), block(16, 32)
        self.up1, self.down1 = nn.ConvTranspose2d(32, 16, 2, 2), block(32, 16)
        self.up2, self.down2 = nn.ConvTranspose2d(16, 8, 2, 2), block(16, 8)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        a = self.first(x)
        b = self.second(nn.functional.max_pool2d(a, 2))
        middle = self.middle(nn.functional.max_pool2d(b, 2))
        y = self.down1(torch.cat([self.up1(middle), b], 1))
        return self.out(self.down2(torch.cat([self.up2(y), a], 1)))


class Multihead(nn.Module):
    def __init__(self, need_weights, batch_first):
        super().__init__()
        self.embed = nn.Linear(3, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=batch_first)
        self.need_weights = need_weights
        self.norm = nn.LayerNorm(32)
        self.up, self.down, self.out = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.embed(x.flatten(2).transpose(1, 2))
        x = self.norm(x + self.attention(x, x, x, need_weights=self.need_weights)[0])
        return self.out((x + self.down(nn.functional.gelu(self.up(x)))).mean(1))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(3, 16, 3), nn.Linear(16, 4), nn.Linear(4, 16)
        self.layer_scale, self.norm, self.out = (
            nn.Parameter(torch.ones(16, 1, 1)),
            nn.GroupNorm(4, 16),
            nn.Conv2d(16, 7, 1),
        )

    def forward(self, x):
        y = self.conv(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        y = self.norm(y * gate[:, :, None, None]) * self.layer_scale
        return self.out(torch.relu(y) + y)


class Shuffles(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.grouped = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 48, 3, groups=3)
        self.shuffle, self.again = nn.ChannelShuffle(3), nn.Conv2d(48, 24, 3, groups=3)
        self.transposed = nn.ConvTranspose2d(24, 24, 3, groups=4)
        self.widen, self.pixels, self.out = nn.Conv2d(24, 32, 1), nn.PixelShuffle(2), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        y = torch.relu(self.grouped(self.conv(x)))
        batch, channels, height, width = y.shape
        y = y.view(batch, 3, channels // 3, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.out(self.pixels(self.widen(self.transposed(self.again(self.shuffle(y))))))


class C2f(nn.Module):
    def __init__(self, as_chunks):
        super().__init__()
        self.as_chunks, self.width = as_chunks, 8
        self.stem, self.split = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 16, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1)) for _ in range(2)
        )
        self.join, self.gated, self.out = nn.Conv2d(32, 10, 1), nn.Conv2d(10, 16, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.split(self.stem(x))
        parts = list(y.chunk(2, 1)) if self.as_chunks else list(y.split((self.width, self.width), 1))
        parts.extend(block(parts[-1]) for block in self.blocks)
        return self.out(nn.functional.glu(self.gated(self.join(torch.cat(parts, 1))), 1))


class FlattenedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.flat, self.tied, self.norm = nn.Linear(8 * 16, 20), nn.Linear(20, 20), nn.RMSNorm(20)
        self.gates, self.out = nn.Linear(20, 40), nn.Linear(20, 4)
        self.also_tied = nn.Linear(20, 20)
        self.also_tied.weight = self.tied.weight

    def forward(self, x):
        y = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.first(x))))))
        y = torch.relu(self.flat(nn.functional.adaptive_avg_pool2d(y, 4).flatten(1)))
        y = self.norm(self.also_tied(torch.relu(self.tied(y))))
        left, right = self.gates(y).chunk(2, -1)
        return self.out(left * torch.sigmoid(right) + torch.einsum("bi,ji->bj", y, self.tied.weight))


class HandWrittenAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.heads, self.scale = nn.Conv2d(3, 32, 4, 4), 4, 8**-0.5
        self.q, self.kv, self.proj = nn.Linear(32, 32, bias=False), nn.Linear(32, 64), nn.Linear(32, 32)
        self.position, self.norm, self.out = nn.Parameter(torch.randn(1, 64, 32)), nn.LayerNorm(8), nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        batch, tokens, _ = x.shape
        q = self.norm(self.q(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2))
        k, v = self.kv(x).reshape(batch, tokens, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
        return self.out((x + self.proj(y.transpose(1, 2).flatten(2))).mean(1))


class GroupedQueries(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.q, self.k, self.v = nn.Linear(3, 32), nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.proj, self.head_dim, self.out = nn.Linear(32, 32), 8, nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x.flatten(2).transpose(1, 2)[:, :64])
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out((x + self.proj(y.transpose(1, 2).flatten(2))).mean(1))


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3))
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 1))
        self.instance, self.out = nn.InstanceNorm2d(16, affine=True), nn.Conv2d(16, 3, 1)

    def forward(self, x):
        y = self.instance(self.second(torch.relu(self.first(x))))
        weights = torch.softmax(y.mean((2, 3)), 1)[:, :, None, None]
        spread = y.var(1, keepdim=True) + y.amax(1, keepdim=True) + nn.functional.normalize(y, dim=1)
        return {"out": self.out(y * weights + spread)}


OWN = {
    "unet": Unet,
    "multihead": lambda: Multihead(False, True),
    "multihead with weights": lambda: Multihead(True, True),
    "multihead, sequence first": lambda: Multihead(True, False),
    "squeeze and excite": SqueezeExcite,
    "shuffles": Shuffles,
    "c2f by chunk": lambda: C2f(True),
    "c2f by split": lambda: C2f(False),
    "flatten, tied, used twice": FlattenedTwice,
    "attention by hand": HandWrittenAttention,
    "grouped queries": GroupedQueries,
    "weight norm, reductions": Normalised,
}


@pytest.mark.parametrize("name", OWN)
def test_awkward_networks_are_cut_exactly(name):
    torch.manual_seed(0)
    model = trained(OWN[name]())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert worst_error(model, x) < TOLERANCE


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.inner = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        y = self.inner(torch.relu(self.second(torch.cumsum(self.first(x), 1))))
        return self.out(torch.polar(y, y).abs())


def test_operators_without_a_rule_pin_with_reason_and_place():
    graph = trace(Unknown(), torch.zeros(1, 3, 16, 16))
    reasons = {refusal.where: refusal.reason for refusal in graph.refused}
    assert [group.name for group in graph.groups] == ["second"]
    assert "aten.cumsum" in reasons["first.weight[0]"]
    assert "aten.polar" in reasons["inner.weight[0]"]
    assert "no rule" in reasons["inner.weight[0]"]
    torch.manual_seed(0)
    assert worst_error(trained(Unknown()), torch.randn(2, 3, 16, 16, dtype=torch.float64)) < TOLERANCE
