"""Small networks whose parts share things, by what they share and how they refer to it."""

from __future__ import annotations

import collections
import functools
import threading
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.core.keeping import Leaving, Parent, counted, masked, normalised, programs, tied

__all__ = ["GLOBAL", "SHARING", "USED_BY_CLASS", "Bus"]


class Conv(nn.Module):
    """A convolution that puts what it makes into something which it shares with the network."""

    def __init__(self, put: Callable[[str, torch.Tensor], None] | None, name: str, **held: Any) -> None:
        super().__init__()
        self.conv, self.put, self.name = nn.Conv2d(6, 6, 3, padding=1), put, name
        self.__dict__.update(held)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        if self.put is not None:
            self.put(self.name, x)
        return x


class Shared(nn.Module):
    """Two convolutions in a row; the head reads both of their outputs from what they share."""

    def __init__(
        self,
        read: Callable[[Any], tuple[torch.Tensor, torch.Tensor]],
        put: Callable[[str, torch.Tensor], None] | None = None,
        **held: Any,
    ) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 6, 1), Conv(put, "a", **held), Conv(put, "b", **held)
        self.head, self.read = nn.Conv2d(12, 2, 1), read
        self.__dict__.update(held)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.second(self.first(self.stem(x)))
        return self.head(torch.cat(self.read(self), 1)).mean((2, 3))


class Bus:
    """An object that holds features, and perhaps the network."""

    def __init__(self, network: nn.Module | None = None) -> None:
        self.features: dict[str, torch.Tensor] = {}
        self.network = network

    def put(self, name: str, x: torch.Tensor) -> None:
        self.features[name] = x

    def hook(self, module: Conv, args: Any, output: torch.Tensor) -> None:
        self.features[module.name] = output


class Slots:
    __slots__ = ("a", "b")

    def put(self, name: str, x: torch.Tensor) -> None:
        setattr(self, name, x)


class Locked(Bus):
    """Says itself how it is pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"features": self.features}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = threading.Lock()


class Features(dict[str, torch.Tensor]):
    """A dictionary with an attribute."""

    scale = 1.0


def by_dict(make: Callable[[], Any]) -> nn.Module:
    bus = make()
    return Shared(lambda net: (net.bus["a"], net.bus["b"]), bus.__setitem__, bus=bus)


def by_list() -> nn.Module:
    bus: list[torch.Tensor] = []

    def read(net: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found = tuple(net.bus)
        net.bus.clear()
        return found  # type: ignore[return-value]

    return Shared(read, lambda name, x: bus.append(x), bus=bus)


def by_deque() -> nn.Module:
    bus: collections.deque[torch.Tensor] = collections.deque(maxlen=2)
    return Shared(lambda net: (net.bus[0], net.bus[1]), lambda name, x: bus.append(x), bus=bus)


def by_set() -> nn.Module:
    bus: set[torch.Tensor] = set()

    def read(net: Any) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = sorted(net.bus, key=lambda x: float(x.dim()))[:2]
        net.bus.clear()
        return first + second, first + second

    return Shared(read, lambda name, x: bus.add(x), bus=bus)


def by_view() -> nn.Module:
    bus: dict[str, torch.Tensor] = {}
    return Shared(lambda net: tuple(net.seen), bus.__setitem__, seen=bus.values())  # type: ignore[arg-type]


def by_proxy() -> nn.Module:
    bus: dict[str, torch.Tensor] = {}
    return Shared(lambda net: (net.seen["a"], net.seen["b"]), bus.__setitem__, seen=types.MappingProxyType(bus))


def by_object(make: Callable[[], Any], read: Callable[[Any], Any]) -> nn.Module:
    bus = make()
    return Shared(lambda net: read(net.bus), bus.put, bus=bus)


def both(bus: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return bus.features["a"], bus.features["b"]


def by_hook(hook: Callable[[Bus], Callable[..., None]], **options: bool) -> nn.Module:
    bus = Bus()
    net = Shared(lambda net: both(net.bus), bus=bus)
    bus.network = net
    for each in (net.first, net.second):
        each.register_forward_hook(hook(bus), **options)
    return net


def closure(bus: Bus) -> Callable[..., None]:
    features = bus.features

    def hook(module: Conv, args: Any, output: torch.Tensor) -> None:
        features[module.name] = output

    return hook


def by_default(bus: Bus) -> Callable[..., None]:
    def hook(module: Conv, args: Any, output: torch.Tensor, features: Any = bus.features) -> None:
        features[module.name] = output

    return hook


def by_keyword_default(bus: Bus) -> Callable[..., None]:
    def hook(module: Conv, args: Any, output: torch.Tensor, *, features: Any = bus.features) -> None:
        features[module.name] = output

    return hook


def into(features: dict[str, torch.Tensor], module: Conv, args: Any, output: torch.Tensor) -> None:
    features[module.name] = output


def with_keywords(bus: Bus) -> Callable[..., None]:
    return lambda module, args, kwargs, output: bus.put(module.name, output)


GLOBAL: dict[str, torch.Tensor] = {}
USED_BY_CLASS: dict[str, torch.Tensor] = {}


def into_global(module: Conv, args: Any, output: torch.Tensor) -> None:
    GLOBAL[module.name] = output


def store(name: str, x: torch.Tensor) -> None:
    GLOBAL[name] = x


def by_global(through: bool) -> nn.Module:
    net = Shared(lambda net: (net.bus["a"], net.bus["b"]), bus=GLOBAL)
    for each in (net.first, net.second):
        hook = (lambda module, args, output: store(module.name, output)) if through else into_global
        each.register_forward_hook(hook)
    return net


class ByClass(Conv):
    """Its class names the module-level dictionary that the network holds."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        USED_BY_CLASS[self.name] = x = super().forward(x)
        return x


def by_class() -> nn.Module:
    net = Shared(lambda net: (net.bus["a"], net.bus["b"]), bus=USED_BY_CLASS)
    net.first, net.second = ByClass(None, "a"), ByClass(None, "b")
    return net


def by_class_in_function() -> nn.Module:
    bus: dict[str, torch.Tensor] = {}

    class Inside(Conv):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bus[self.name] = x = super().forward(x)
            return x

    net = Shared(lambda net: (net.bus["a"], net.bus["b"]), bus=bus)
    net.first, net.second = Inside(None, "a"), Inside(None, "b")
    return net


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


SHARING: dict[str, Callable[[], nn.Module]] = {
    "dict": lambda: by_dict(dict),
    "ordered dict": lambda: by_dict(collections.OrderedDict),
    "default dict": lambda: by_dict(lambda: collections.defaultdict(list)),
    "subclass of dict": lambda: by_dict(Features),
    "list": by_list,
    "deque": by_deque,
    "set": by_set,
    "view of a dict": by_view,
    "proxy of a dict": by_proxy,
    "object": lambda: by_object(Bus, both),
    "object with slots": lambda: by_object(Slots, lambda bus: (bus.a, bus.b)),
    "object that pickles itself": lambda: by_object(Locked, both),
    "hook, closure": lambda: by_hook(closure),
    "hook, bound method": lambda: by_hook(lambda bus: bus.hook),
    "hook, partial": lambda: by_hook(lambda bus: functools.partial(into, bus.features)),
    "hook, default": lambda: by_hook(by_default),
    "hook, keyword default": lambda: by_hook(by_keyword_default),
    "hook with keywords": lambda: by_hook(with_keywords, with_kwargs=True),
    "hook, always called": lambda: by_hook(closure, always_call=True),
    "hook, global": lambda: by_global(False),
    "hook, global through a function": lambda: by_global(True),
    "hooks, counter": counted,
    "class, global": by_class,
    "class, closure": by_class_in_function,
    **{
        how: functools.partial(Parent, how)
        for how in (
            *("lambda", "bound method", "partial", "forward of a child", "weak reference", "weak proxy"),
            *("weak dictionary", "not registered", "named tuple", "wrapped"),
        )
    },
    "left behind": Leaving,
    "masks of torch": masked,
    "old weight norm": lambda: normalised(nn.utils.weight_norm),
    "old spectral norm": lambda: normalised(nn.utils.spectral_norm),
    "weight norm": lambda: normalised(parametrizations.weight_norm),
    "orthogonal": lambda: normalised(parametrizations.orthogonal),
    "tied": tied,
    "of the program": programs,
    "fx": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1), Mean())),
}
