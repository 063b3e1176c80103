"""Costs with gradients: exact at legal sizes, along the curve between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edakari.core.space import limited
from edakari.cost import macs
from edakari.cost.smooth import smooth_total
from edakari.graph import trace
from edakari.testing import toy_cnn, toy_job


def pair() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))


def test_pairs_of_convolutions_by_hand() -> None:
    graph = trace(pair(), torch.zeros(1, 4, 4, 4))
    sizes = torch.tensor([4.0], requires_grad=True)
    assert float(smooth_total(macs(graph), graph.groups, sizes)) == 2 * 9 * 4 * 4 * 16
    half = torch.tensor([2.0], requires_grad=True)
    cost = smooth_total(macs(graph), graph.groups, half)
    assert float(cost) == 9 * 4 * 4 * 16
    cost.backward()
    assert half.grad is not None
    assert float(half.grad) == 2 * 9 * 4 * 16


def test_half_of_a_depthwise_layer_costs_half() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 2, 1))
    graph = trace(model, torch.zeros(1, 3, 5, 5))
    full, half = (float(smooth_total(macs(graph), graph.groups, torch.tensor([size]))) for size in (8.0, 4.0))
    assert half == full / 2


def test_gradients_are_those_of_the_cost() -> None:
    graph = trace(toy_cnn(), torch.zeros(1, 3, 16, 16))
    cost = macs(graph)
    whole = torch.tensor([float(group.size) for group in graph.groups])
    sizes = (whole * 0.5).round().requires_grad_(True)
    smooth_total(cost, graph.groups, sizes).backward()
    assert sizes.grad is not None
    at = {group.name: int(size) for group, size in zip(graph.groups, sizes.tolist(), strict=True)}
    for group, found in zip(graph.groups, sizes.grad.tolist(), strict=True):
        near = [cost.total({**at, group.name: at[group.name] + step}) for step in (-1, 1)]
        assert found == pytest.approx((near[1] - near[0]) / 2, rel=1e-6)


def test_between_legal_sizes_the_curve_is_followed() -> None:
    job = toy_job(toy_cnn(), "latency<=50%")
    (latency,) = job.costs
    groups = limited(job.graph.groups, round_to=8)
    (first,) = [group for group in groups if group.name == "first.0"]
    low, high = (latency.total({first.name: size}) for size in (8, 16))
    at = torch.tensor([10.0])
    far = float(smooth_total(latency, (first,), at))
    wide = (latency.total({first.name: 16}) - latency.total({first.name: 8})) / 8
    assert far == pytest.approx(low + 2 * wide, rel=1e-6)
    assert low < far < high
