"""Folded networks: the same outputs on inputs they were not folded with, and only what may be folded is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import edakari
from edakari.core.comparing import captured
from edakari.train.folding import folded

IMAGES = (3, 12, 12)


class Residual(nn.Module):
    """Two blocks with a sum, a layer that two modules read, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4, affine=False)
        self.read_twice, self.second = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.again, self.third = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.up, self.fourth = nn.ConvTranspose2d(4, 6, 2), nn.BatchNorm2d(6)
        self.grouped, self.last = nn.ConvTranspose2d(6, 6, 2, groups=2), nn.BatchNorm2d(6)
        self.head, self.fifth = nn.Linear(6, 3), nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(x + self.norm(self.conv(x)))
        y = self.read_twice(x)
        x = self.second(y) * y.sigmoid()
        x = self.third(self.again(self.again(x)))
        x = self.last(self.grouped(self.fourth(self.up(x)))).mean((2, 3))
        return self.fifth(self.head(x))


class Act(nn.BatchNorm2d):
    """A normalisation with an activation, as timm has it."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


Act.__name__ = "BatchNormAct2d"


class Other(Act):
    """A normalisation that does something else, too: it is left alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) ** 2


def disturbed(model: nn.Module) -> nn.Module:
    """The network with statistics and weights of normalisations that matter."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.double().eval()


def simple(norm: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Flatten(), nn.LazyLinear(3))


NETWORKS = {
    "residual": (Residual, 3),
    "norm with activation": (lambda: simple(Act), 0),
    "another norm": (lambda: simple(Other), 1),
    "batch statistics": (lambda: simple(lambda size: nn.BatchNorm2d(size, track_running_stats=False)), 1),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), 2),
    "resnet20": (lambda: edakari.build("edakari:resnet20", weights="random"), 0),
    "mobilenet": (lambda: edakari.build("timm:mobilenetv2_050", weights="random"), 0),
}


def norms(model: nn.Module) -> list[str]:
    return [name for name, each in model.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_gives_the_same_on_other_inputs(name: str) -> None:
    torch.manual_seed(0)
    make, _ = NETWORKS[name]
    size = 32 if name in ("resnet20", "mobilenet") else 12
    inputs, others = torch.randn(2, 3, size, size).double(), torch.randn(5, 3, size, size).double()
    model = make().double().eval()
    model(inputs)
    model = disturbed(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = folded(model, inputs)
    expected = model(others)
    torch.testing.assert_close(found(others), expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(param.requires_grad for param in found.parameters())
    assert not any(module.training for module in found.modules())
    left = {"residual": ["second", "third", "last"]}.get(name)
    assert norms(found) == left if left else len(norms(found)) == NETWORKS[name][1]


def test_modules_whose_outputs_are_compared_give_what_they_gave() -> None:
    torch.manual_seed(0)
    model, inputs = disturbed(Residual()), torch.randn(2, *IMAGES).double()
    for names in (("conv", "stem.1"), ("stem.0", "fourth"), ("stem", "head")):
        found = folded(model, inputs, names)
        with captured(model, names) as expected, captured(found, names) as seen:
            model(inputs)
            found(inputs)
        for name in names:
            torch.testing.assert_close(seen[name][0], expected[name][0])


def test_a_network_that_does_not_run_on_the_inputs_is_copied_as_it_is() -> None:
    model = disturbed(Residual())
    found = folded(model, torch.randn(2, 5, 4, 4).double())
    assert found is not model
    assert norms(found) == norms(model)


def test_layers_with_hooks_are_left_alone() -> None:
    torch.manual_seed(0)
    model, inputs = disturbed(Residual()), torch.randn(2, *IMAGES).double()
    model.stem[0].register_forward_hook(lambda module, args, output: output * 2)
    found = folded(model, inputs)
    assert "stem.1" in norms(found)
    torch.testing.assert_close(found(inputs), model(inputs))
