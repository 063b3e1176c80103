"""Code that compares widths finds the same in the cut network: equal ones are tied, others keep their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.plan import KeepChannels, Plan
from edakari.core.space import limited
from edakari.errors import PlanError
from edakari.testing import enlivened, exactness, random_plan

Look = Callable[["Stage", torch.Tensor], torch.Tensor]


class Stage(nn.Module):
    """A convolution whose code first looks at the width that it was given."""

    def __init__(self, inward: int, outward: int, look: Look) -> None:
        super().__init__()
        self.channels, self.into, self.both, self.look = inward, outward, [inward, outward], look
        self.heads, self.depth, self.conv = 4, 16, nn.Conv2d(inward, outward, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps, float [batch, channels, height, width]."""
        return torch.relu(self.conv(self.look(self, x)))


class Net(nn.Module):
    """Stages of which all but the first look at widths."""

    def __init__(self, look: Look, widths: tuple[int, ...]) -> None:
        super().__init__()
        looks = [lambda stage, x: x, *[look] * (len(widths) - 1)]
        self.stages = nn.Sequential(*map(Stage, (3, *widths[:-1]), widths, looks))
        self.head = nn.Linear(widths[-1], 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images, float [batch, 3, height, width]."""
        return self.head(self.stages(x).mean((2, 3)))


def demand(fine: Callable[[Stage, torch.Tensor], bool]) -> Look:
    """Raises where a test fails, as checks of arguments do."""

    def look(stage: Stage, x: torch.Tensor) -> torch.Tensor:
        if not fine(stage, x):
            raise ValueError("wrong channels")
        return x

    return look


def fail() -> torch.Tensor:
    raise ValueError("wrong channels")


def choose(test: Callable[[Stage, torch.Tensor], Any]) -> Look:
    """Computes otherwise where a test fails, with the same shapes, so that nobody would notice."""
    return lambda stage, x: x * 2 if test(stage, x) else x * 3


CHECKS: dict[str, Look] = {
    "!=": lambda stage, x: fail() if x.shape[1] != stage.channels else x,
    "==": demand(lambda stage, x: stage.channels == x.size(1)),
    ">=": demand(lambda stage, x: x.shape[1] >= stage.channels),
    "<=": demand(lambda stage, x: x.shape[1] <= stage.channels),
    "in a list": demand(lambda stage, x: x.shape[1] in stage.both),
    "in a tuple": demand(lambda stage, x: x.shape[1] in (3, stage.channels)),
    "shapes": demand(lambda stage, x: x.shape == (x * 2).shape),
    "tuples": demand(lambda stage, x: tuple(x.shape[1:2]) == (stage.channels,)),
    "a layer's": demand(lambda stage, x: x.shape[1] == stage.conv.in_channels),
    "max": lambda stage, x: x[:, : max(x.shape[1], stage.channels)],
    "min": lambda stage, x: x[:, : min(x.shape[1], stage.channels)],
    "remainder of heads": lambda stage, x: (
        demand(lambda stage, x: x.shape[1] % stage.heads == 0)(stage, x)
        .unflatten(1, (stage.heads, x.shape[1] // stage.heads))
        .flatten(1, 2)
    ),
}

CHOICES: dict[str, Look] = {
    "equal to another": choose(lambda stage, x: x.shape[1] == stage.conv.out_channels),
    "less than another": choose(lambda stage, x: x.shape[1] < stage.conv.out_channels),
    "two attributes": choose(lambda stage, x: stage.channels == stage.into),
    "more than one": choose(lambda stage, x: x.shape[1] > 1),
    "more than a literal": choose(lambda stage, x: x.shape[1] > 10),
    "equal to a literal": choose(lambda stage, x: x.shape[1] == 16),
    "equal by chance": choose(lambda stage, x: x.shape[1] == stage.depth),
    "even": choose(lambda stage, x: x.shape[1] % 2 == 0),
}


@pytest.mark.parametrize("widths", [(16, 16, 24), (16, 24, 32)])
@pytest.mark.parametrize("check", CHECKS)
def test_checks_of_a_width_follow_it(check, widths):
    torch.manual_seed(0)
    model, x = enlivened(Net(CHECKS[check], widths)), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    graph = edakari.trace(model, x)
    assert len(graph.groups) >= 3
    assert exactness(model, x, random_plan(graph, keep=(0.1, 0.9))) < 1e-12


@pytest.mark.parametrize("widths", [(16, 16, 24), (16, 24, 32), (24, 16, 16)])
@pytest.mark.parametrize("choice", CHOICES)
def test_the_way_that_code_takes_stays_the_same(choice, widths):
    torch.manual_seed(0)
    model, x = enlivened(Net(CHOICES[choice], widths)), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    graph = edakari.trace(model, x)
    assert graph.groups
    for seed in range(4):
        assert exactness(model, x, random_plan(graph, keep=(0.05, 0.95), seed=seed)) < 1e-12


def test_a_comparison_with_a_number_is_the_least_size():
    model = Net(CHOICES["more than a literal"], (16, 24, 32)).eval()
    graph = edakari.trace(model, torch.zeros(1, 3, 4, 4))
    assert [(group.size, group.least) for group in graph.groups] == [(16, 11), (24, 11), (32, 1)]
    assert [group.least for group in limited(graph.groups, min_channels=4)] == [11, 11, 4]
    few = Plan((KeepChannels(graph.groups[0].name, (0, 1)),), graph.fingerprint, graph.inputs)
    with pytest.raises(PlanError, match="fewer than 11"):
        edakari.apply(model, few)


def test_a_width_that_is_a_key_of_a_cache_is_tied_to_nothing():
    seen: dict[int, int] = {}
    model = Net(lambda stage, x: x * seen.setdefault(x.shape[1], 2), (16, 16, 16)).eval()
    assert len(edakari.trace(model, torch.zeros(1, 3, 4, 4)).groups) == 3


def test_recurrent_layers_compare_their_own_widths():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer, self.out = nn.Linear(4, 8), nn.GRU(8, 12, batch_first=True), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.layer(self.embed(x))[0])

    assert [group.size for group in edakari.trace(Net().eval(), torch.zeros(1, 5, 4)).groups] == [8, 12]
