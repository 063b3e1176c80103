"""What is timed in a network."""

from __future__ import annotations

import timm
import torch
from torch import nn

from edakari.core.layout import axes, extent
from edakari.graph import trace
from edakari.latency import layers_of, unknown_operators
from edakari.testing import toy_cnn


def widths(use, sizes=None):
    return tuple(int(extent(width, sizes or {})) for width in use.widths)


def test_what_follows_position_by_position_joins_the_layer():
    uses = layers_of(trace(toy_cnn(), torch.zeros(1, 3, 16, 16)))
    tails = [(use.layer.kind, use.layer.tail) for use in uses]
    plain, residual = ("batch_norm", "relu"), ("batch_norm", "relu", "add")
    assert tails[:3] == [("convolution", plain), ("convolution", plain), ("convolution", residual)]
    assert ("grouped_convolution", plain) in tails
    assert [use.layer["form"] for use in uses if use.layer.kind == "elementwise"] == ["concat", "mean"]


def test_equal_layers_are_timed_once_whatever_their_widths():
    net = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 8 + i, 9 + i, 3, padding=1) for i in range(4)])
    uses = layers_of(trace(net, torch.zeros(1, 3, 8, 8)))
    assert len({use.layer for use in uses}) == 1
    assert [widths(use) for use in uses] == [(3, 9), (9, 10), (10, 11), (11, 12)]


def test_what_decides_the_time_tells_layers_apart():
    def layer(size=8, batch=1, **options):
        net = nn.Conv2d(4, 4, 3, **options)
        return layers_of(trace(net, torch.zeros(batch, 4, size, size)))[0].layer

    variants = [layer(), layer(size=9), layer(batch=2), layer(stride=2), layer(padding=1), layer(dilation=2),
                layer(bias=False), layer(groups=2), layer(groups=4)]  # fmt: skip
    assert len(set(variants)) == len(variants)


def test_widths_follow_the_groups():
    graph = trace(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 1)),
                  torch.zeros(1, 3, 8, 8))  # fmt: skip
    uses = layers_of(graph)
    assert [widths(use, {"0": 5}) for use in uses] == [(3, 5), (5, 2), (5, 8)]


def test_groups_of_a_convolution_and_their_widths_are_axes():
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 64, 3, groups=8), nn.Conv2d(64, 4, 1))
    use = layers_of(trace(net, torch.zeros(1, 3, 8, 8)))[1]
    assert use.layer["ratio"] == (4, 8)
    assert widths(use) == (8, 12)
    names = {axis.group for width in use.widths for axis in axes(width)}
    assert len(names) == 3
    assert widths(use, dict.fromkeys(names, 2)) == (2, 4)


def test_groups_that_nothing_may_remove():
    use = layers_of(trace(nn.Sequential(nn.Conv2d(32, 32, 3, groups=8), nn.Flatten()), torch.zeros(1, 32, 8, 8)))[0]
    assert widths(use) == (8, 8)


def test_a_transformer():
    uses = layers_of(trace(timm.create_model("vit_tiny_patch16_224"), torch.zeros(1, 3, 224, 224)))
    kinds = [use.layer.kind for use in uses]
    assert {kind: kinds.count(kind) for kind in ("linear", "attention", "norm", "convolution")} == {
        "linear": 49, "attention": 12, "norm": 25, "convolution": 1,
    }  # fmt: skip
    attention = next(use for use in uses if use.layer.kind == "attention")
    group = "blocks.0.attn.qkv"
    assert widths(attention, {f"{group}:head": 2, f"{group}:head_dim": 40}) == (2, 80)
    assert [use.layer.tail for use in uses if use.layer.kind == "linear"][:4] == [(), ("add",), ("gelu",), ("add",)]


def test_unknown_operators_are_named():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(torch.relu(x), 1)

    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 1), Odd()), torch.zeros(1, 3, 8, 8))
    assert unknown_operators(graph) == ("aten.cumsum",)
    assert layers_of(graph)[-1].layer["form"] == "other"
