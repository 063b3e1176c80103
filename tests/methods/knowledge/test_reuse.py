"""Records of modules: what is handed out is what would be computed, also where networks write over their tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edakari.methods.knowledge.reuse import Reuse


class Counting(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Writing(nn.Module):
    """A residual sum and an activation in place, and an activation that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three, self.four = Counting(), Counting(), Counting(), Counting()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [N, 4] of inputs [N, 4]."""
        x = self.act(self.one(x))
        y = self.two(x)
        y += x
        y = self.act(self.three(y))
        z: torch.Tensor = self.four(y)
        return z


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_passes_with_records_equal_passes_without(limit: int) -> None:
    torch.manual_seed(0)
    model = Writing()
    reuse, x = Reuse(model, limit), torch.randn(3, 4)
    with torch.no_grad(), reuse.recording(0):
        whole = model(x)
    for name in ("four", "three", "four", "one", "two", "four"):
        with torch.no_grad():
            model.get_submodule(name).weight.mul_(2.0)
            wanted = model(x)
            with reuse.reusing(0, {name}):
                found = model(x)
            model.get_submodule(name).weight.div_(2.0)
            torch.testing.assert_close(found, wanted, atol=0, rtol=0)
            torch.testing.assert_close(model(x), whole, atol=0, rtol=0)


def test_what_lies_before_is_not_computed() -> None:
    model = nn.Sequential(*(Counting() for _ in range(4)))
    reuse, x = Reuse(model, 1 << 20), torch.randn(3, 4)
    with torch.no_grad(), reuse.recording("a"):
        model(x)
    with torch.no_grad(), reuse.reusing("a", {"2"}):
        model(x)
    assert [module.calls for module in model] == [1, 1, 2, 2]
    with torch.no_grad(), reuse.reusing("another", {"2"}):
        model(x)
    assert [module.calls for module in model] == [2, 2, 3, 3]
    assert not any("forward" in vars(module) for module in model)
