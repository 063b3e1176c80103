"""Small networks that refer to themselves, or keep what an earlier pass or the program gave them."""

from __future__ import annotations

import collections
import functools
import logging
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

__all__ = ["Leaving", "Parent", "counted", "masked", "normalised", "programs", "tied"]


class Parent(nn.Module):
    """Children that refer back to their parent, and functions over the network itself."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.gain = nn.Conv2d(3, 6, 3), nn.Parameter(torch.rand(6))
        self.out = nn.Conv2d(6, 2, 1)
        self.how = how
        self.refer(how)

    def refer(self, how: str) -> None:
        """Keep a way to `gained`."""
        if how == "lambda":
            self.way = lambda x: self.gained(x)
        elif how == "bound method":
            self.way = self.gained
        elif how == "partial":
            self.way = functools.partial(Parent.gained, self)
        elif how == "forward of a child":
            inner = self.body.forward
            self.body.forward = lambda x: inner(x) * self.gain[:, None, None]  # type: ignore[method-assign]
        elif how == "weak reference":
            self.body.parent = weakref.ref(self)  # type: ignore[assignment]
        elif how == "weak proxy":
            self.body.__dict__["parent"] = weakref.proxy(self)
        elif how == "weak dictionary":
            self.parents: Any = weakref.WeakKeyDictionary({self.body: "body"})
        elif how == "not registered":
            self.__dict__["others"] = [self, self.body]
        elif how == "named tuple":
            self.pair = collections.namedtuple("Pair", "body gain")(self.body, self.gain)
        elif how == "cached function":
            self.way = functools.lru_cache(self.gained)
        elif how == "wrapped":
            self.way = functools.wraps(self.gained)(lambda x: self.way.__wrapped__(x))

    def gained(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        if self.how.startswith("weak dictionary"):
            x = self.gained(x) if self.parents[self.body] == "body" else x
        elif self.how.startswith("weak"):
            parent = self.body.parent() if self.how == "weak reference" else self.body.parent
            x = parent.gained(x)  # type: ignore[union-attr, operator]
        elif self.how == "not registered":
            x = self.others[0].gained(x)
        elif self.how == "named tuple":
            x = x * self.pair.gain[:, None, None]
        elif self.how != "forward of a child":
            x = self.way(x)
        return self.out(torch.relu(x)).mean((2, 3))


class Leaving(nn.Module):
    """Keeps tensors of its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
        self.maps: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.body(x))
        self.attention, self.aux = y.softmax(1), {"loss": y.square().mean()}
        self.maps = [*self.maps[-1:], y[:, :1]]
        return self.out(y * self.attention).mean((2, 3))


def masked() -> nn.Module:
    net = Leaving()
    prune.ln_structured(net.body, "weight", 0.5, n=2, dim=0)
    prune.l1_unstructured(net.out, "weight", 0.5)
    return net


def normalised(how: Callable[..., nn.Module]) -> nn.Module:
    net = Leaving()
    how(net.body)
    return net


def counted() -> nn.Module:
    """Two hooks over one counter, which decides what one of them returns."""
    net, calls = Leaving(), 0

    def count(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls += 1

    net.body.register_forward_pre_hook(count)
    net.body.register_forward_hook(lambda module, args, output: output * (1.0 if calls else 2.0))
    return net


def tied() -> nn.Module:
    net = Leaving()
    net.again = nn.Conv2d(3, 6, 3)
    net.again.weight = net.body.weight
    net.body.register_buffer("passing", torch.ones(6), persistent=False)
    net.out.weight.requires_grad_(False)
    net.body.weight.no_decay = True  # type: ignore[union-attr]
    return net


def programs() -> nn.Module:
    """Holds what belongs to the program."""
    net = Leaving()
    net.lock, net.log, net.torch, net.pattern = threading.RLock(), logging.getLogger("x"), torch, re.compile("x")
    net.file = open(__file__, encoding="utf-8")  # noqa: SIM115
    net.event, net.generator = threading.Event(), torch.Generator().manual_seed(1)
    return net
