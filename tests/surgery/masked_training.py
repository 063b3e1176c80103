"""Networks, optimizers and masks with which a training goes on after a cut, as what `carry` is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm.optim
import torch
from torch import nn

import edakari as ek
from edakari.core.copying import copied
from edakari.core.plan import Plan
from edakari.testing import random_plan, toy_cnn

EXAMPLE = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
Make = Callable[[Any], torch.optim.Optimizer]


class Tied(nn.Module):
    """Two layers with one weight, a layer that is called twice, and a group convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2)
        self.grouped = nn.Conv2d(12, 12, 3, groups=3)
        self.first, self.second = nn.Linear(12, 10), nn.Linear(12, 10)
        self.second.weight = self.first.weight
        self.twice = nn.Linear(10, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.stem(x).relu()).relu().mean((2, 3))
        x = self.twice(self.twice(self.first(x).relu() + self.second(x).tanh()))
        return self.head(x)


class Lion(torch.optim.Optimizer):
    """An optimizer of a user's own."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1e-3, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                average = self.state[param].setdefault("average", torch.zeros_like(param))
                param.sub_(average.lerp(param.grad, 1 - group["betas"][0]).sign(), alpha=group["lr"])
                average.lerp_(param.grad, 1 - group["betas"][1])


def timm_optimizer(name: str, **options: Any) -> Make:
    return lambda params: timm.optim.create_optimizer_v2(list(params), name, lr=0.01, weight_decay=0.05, **options)


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda params: torch.optim.SGD(params, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "plain sgd": lambda params: torch.optim.SGD(params, 0.05),
    "adam": lambda params: torch.optim.Adam(params, 0.01, amsgrad=True),
    "adamw fused": lambda params: torch.optim.AdamW(params, 0.01, fused=True),
    "adamw foreach": lambda params: torch.optim.AdamW(params, 0.01, foreach=True),
    "rmsprop": lambda params: torch.optim.RMSprop(params, 0.003, momentum=0.9, centered=True),
    "adagrad": lambda params: torch.optim.Adagrad(params, 0.01),
    "adadelta": lambda params: torch.optim.Adadelta(params, 1.0),
    "adamax": lambda params: torch.optim.Adamax(params, 0.01),
    "nadam": lambda params: torch.optim.NAdam(params, 0.01),
    "radam": lambda params: torch.optim.RAdam(params, 0.01),
    "asgd": lambda params: torch.optim.ASGD(params, 0.01),
    "rprop": lambda params: torch.optim.Rprop(params, 0.001),
    "own lion": Lion,
    "timm lamb": timm_optimizer("lamb"),
    "timm lookahead": timm_optimizer("lookahead_adamw"),
    "timm adan": timm_optimizer("adan"),
    "timm novograd": timm_optimizer("novograd"),
}


def parts_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and floating buffers by all their names."""
    found = (*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False))
    return {name: tensor for name, tensor in found if tensor.is_floating_point()}


def positions(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    """For each tensor of the cut network, where its entries were: a network of numbers is cut."""
    numbered = copied(model)
    with torch.no_grad():
        for tensor in parts_of(numbered).values():
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    return {name: tensor.detach().long() for name, tensor in parts_of(ek.apply(numbered, plan)).items()}


def masks_of(model: nn.Module, where: Mapping[str, torch.Tensor]) -> dict[torch.Tensor, torch.Tensor]:
    masks = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        mask = masks.setdefault(param, torch.zeros_like(param, requires_grad=False))
        mask.view(-1)[where.get(name, torch.zeros(0, dtype=torch.long)).flatten()] = 1
    return masks


def states_of(optimizer: torch.optim.Optimizer) -> dict[torch.Tensor, dict[str, Any]]:
    base = getattr(optimizer, "_base_optimizer", optimizer)
    return dict(base.state)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, masks: Any = None, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        images = torch.randn(6, *EXAMPLE.shape[1:], generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(6) % 4).backward()
        with torch.no_grad():
            for param, mask in (masks or {}).items():
                if param.grad is not None:
                    param.grad *= mask
        optimizer.step()
        with torch.no_grad():
            for param, mask in (masks or {}).items():
                param *= mask


def mask_all(optimizer: torch.optim.Optimizer, masks: Mapping[torch.Tensor, torch.Tensor]) -> None:
    with torch.no_grad():
        for param, mask in masks.items():
            param *= mask
        for param, state in states_of(optimizer).items():
            for value in state.values():
                if isinstance(value, torch.Tensor) and value.shape == param.shape and param.dim():
                    value *= masks[param]


def distance(small: nn.Module, dense: nn.Module, where: Mapping[str, torch.Tensor]) -> float:
    """The largest difference between a cut network and the same entries of a dense one."""
    wide = parts_of(dense)
    return max(
        float((t.detach() - wide[name].reshape(-1)[where[name]].detach()).abs().max())
        for name, t in parts_of(small).items()
    )


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    params = list(model.parameters())
    return [{"params": params[::2], "weight_decay": 0.02}, {"params": params[1::2], "lr": 0.004}]


def cnn() -> nn.Module:
    return toy_cnn().double()


def tied() -> nn.Module:
    torch.manual_seed(1)
    return Tied().double()


def trained(build: Callable[[], nn.Module], make: Make) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A dense network in the middle of its training; always the same."""
    model = build()
    optimizer = make(groups_of(model))
    train(model, optimizer, 3)
    return model, optimizer


def masked(
    build: Callable[[], nn.Module], make: Make, where: Mapping[str, torch.Tensor]
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network of `trained`, whose training went on with masks: the oracle."""
    twin, optimizer = trained(build, make)
    masks = masks_of(twin, where)
    mask_all(optimizer, masks)
    train(twin, optimizer, 4, masks, seed=1)
    return twin, optimizer


def halves(model: nn.Module, seed: int = 0, drop: float = 0.0) -> tuple[nn.Module, Plan]:
    plan = random_plan(ek.trace(model, EXAMPLE), 0.5, seed, drop=drop)
    return ek.apply(model, plan), plan
