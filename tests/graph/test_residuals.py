"""One finder of residual sums, for what is recorded while tracing and for graphs."""

from __future__ import annotations

import torch
from torch import nn

from edakari.graph import trace
from edakari.graph.layer_outputs import sums_into
from edakari.graph.residuals import residual_sums, stacked_sums


class Sums(nn.Module):
    """Additions of every kind, of which two are residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.head = nn.Conv2d(6, 2, 1)
        self.shift = nn.Parameter(torch.randn(1, 6, 4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.first(x)  # a residual sum
        x = x + self.shift  # a parameter
        x = x + x.mean((2, 3), keepdim=True)  # broadcast
        x = x + x  # with itself
        y = self.second(x)
        y += x  # a residual sum, in place
        return self.head(y + 1.0)


def test_only_sums_of_two_tensors_of_one_shape_are_found() -> None:
    graph = trace(Sums(), torch.randn(1, 3, 4, 4))
    found = [graph.operators[index] for index in residual_sums(graph.operators)]
    assert [operator.name for operator in found] == ["aten.add", "aten.add_"]
    assert [
        {graph.operators[source].weights[:1] for source in each.sources if source is not None} for each in found
    ] == [
        {("stem.weight",), ("first.weight",)},
        {(), ("second.weight",)},
    ]


def test_the_groups_of_residual_sums_are_counted_and_their_branches_are_found() -> None:
    graph = trace(Sums(), torch.randn(1, 3, 4, 4))
    assert list(sums_into(graph).values()) == [2]
    assert [branch.exit for branch in graph.branches] == ["first", "second"]


class Stacks(nn.Module):
    """Stacks that are added or averaged, and stacks that are not, or read elsewhere too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x), self.second(x), self.third(x)]
        y = torch.stack(parts).sum(0) + torch.stack(parts, 2).mean(2)  # these two
        y = y + torch.stack(parts).amax(0) + torch.stack(parts).sum(1)[:1]
        both = torch.stack(parts, 1)
        y = y + both.sum(1) + both[:, 0]
        return y + torch.stack([parts[0], parts[0]]).sum(0)


def test_only_stacks_that_are_added_up_are_sums() -> None:
    graph = trace(Stacks(), torch.randn(2, 3, 8, 8))
    found = [graph.operators[index] for index in stacked_sums(graph.operators)]
    assert [len(operator.sources) for operator in found] == [3, 3]
    assert [[dim.size for dim in operator.outputs[0]] for operator in found] == [[3, 2, 4, 8, 8], [2, 4, 3, 8, 8]]
