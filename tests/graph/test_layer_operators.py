"""Layers that skip their own code on meta tensors: the graph is the one that their code gives."""

from __future__ import annotations

import copy
import dataclasses as dc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.graph import Branch, Graph
from edakari.core.layout import Fixed
from edakari.graph import module_calls
from edakari.graph.layer_operators import LAYERS, is_plain
from edakari.graph.module_calls import told_of_calls


class ByName(nn.Module):
    """Calls a layer, and its `forward` by name, which is no call of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.layer.forward(self.first(x)))
        return self.last(self.layer(input=x))


class Copying(nn.Module):
    """Runs a copy of a layer with a part of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 8))
        self.layer, self.last = nn.Linear(8, 8, bias=False), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part = copy.copy(self.layer)
        part._parameters = {"weight": nn.Parameter(self.layer.weight[:4], False), "bias": None}
        return self.last(part(self.layer(self.first(x))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.Dropout())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def hooked() -> nn.Module:
    layer = nn.Conv2d(8, 8, 1)
    layer.register_forward_hook(lambda module, args, output: output[:, :4])
    return nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.Conv2d(4, 5, 1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8, momentum=None), nn.ReLU6(True), nn.Identity()),
            *(nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.SiLU(), nn.Conv2d(8, 6, 1, dilation=2), nn.Hardswish(True)),
            *(nn.Flatten(), nn.Linear(6 * 25, 4)),
        ),
        (2, 3, 16, 16),
    ),
    "padding by other means": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding="same"),
            nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(6, 4, 1),
        ),
        (1, 3, 8, 8),
    ),
    "one image": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1)), (3, 8, 8)),
    "sequences": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.GELU("tanh"), nn.Conv1d(8, 5, 1)),
        (2, 3, 9),
    ),
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8, affine=False), nn.GELU(), nn.Conv3d(8, 5, 1)),
        (1, 3, 5, 5, 5),
    ),
    "statistics of the batch": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.Conv2d(8, 5, 1)),
        (2, 3, 8, 8),
    ),
    "tokens": (
        lambda: nn.Sequential(
            *(nn.Linear(5, 8), nn.LayerNorm(8, bias=False), nn.Linear(8, 12, bias=False), nn.Dropout(), nn.ReLU()),
            *(nn.LayerNorm(12, elementwise_affine=False), nn.Linear(12, 3)),
        ),
        (2, 7, 5),
    ),
    "a layer called by name": (ByName, (2, 6)),
    "a copy of a layer": (Copying, (2, 6)),
    "a residual branch": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), Residual(), nn.Conv2d(8, 5, 1)), (1, 3, 8, 8)),
    "a hook": (hooked, (1, 3, 8, 8)),
}


def traced(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Graph:
    with torch.device("meta"):
        model = build()
    graph = edakari.trace(model, torch.zeros(shape))
    assert not any("forward" in vars(module) for module in model.modules())
    return graph


def without_reserves(graph: Graph) -> Graph:
    """The graph without the empty tensors that batch norms make, and without shapes made by torch's own code."""
    reserve = ((Fixed(0),),)
    stay = [i for i, each in enumerate(graph.operators) if (each.name, each.outputs) != ("aten.empty", reserve)]
    new: dict[int | None, Any] = {index: number for number, index in enumerate(stay)}

    def branch(each: Branch) -> Branch:
        shapes = tuple(dc.replace(shape, operator=new[shape.operator]) for shape in each.shapes)
        indices = {name: tuple(new[i] for i in getattr(each, name) if i in new) for name in ("operators", "region")}
        return dc.replace(each, shapes=shapes, **indices)

    def sources(indices: Any) -> tuple[int | None, ...]:
        return tuple(new.get(index) for index in indices)

    return dc.replace(
        graph,
        operators=tuple(dc.replace(o, sources=sources(o.sources)) for o in (graph.operators[i] for i in stay)),
        calls=tuple(
            dc.replace(
                c,
                input_sources=sources(c.input_sources),
                output_sources=sources(c.output_sources),
                made_shapes={line: shapes for line, shapes in c.made_shapes.items() if line},
            )
            for c in graph.calls
        ),
        branches=tuple(map(branch, graph.branches)),
        paths=tuple(map(branch, graph.paths)),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_is_that_of_the_layers_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = traced(*NETWORKS[name])
    monkeypatch.setattr(module_calls, "is_plain", lambda module: False)
    slow = traced(*NETWORKS[name])
    assert fast.groups or name == "a copy of a layer"
    assert without_reserves(fast) == without_reserves(slow)


def test_every_layer_of_the_table_is_in_these_networks_and_skips_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped: set[type[nn.Module]] = set()
    for cls, operator in LAYERS.items():
        monkeypatch.setitem(LAYERS, cls, lambda module, x, f=operator: (skipped.add(type(module)), f(module, x))[1])
    for build, shape in NETWORKS.values():
        traced(build, shape)
    assert skipped == set(LAYERS)


def test_layers_with_other_code_are_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_plain(nn.Linear(2, 2))
    own, hook = nn.Linear(2, 2), nn.Linear(2, 2)
    own.forward = lambda x: x[..., :1]  # type: ignore[method-assign]
    hook.register_forward_pre_hook(lambda module, args: None)
    norm = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert not any(map(is_plain, (own, hook, norm, nn.LazyLinear(2))))
    monkeypatch.setattr(nn.Linear, "forward", lambda module, x: x)
    assert not is_plain(nn.Linear(2, 2))


def test_a_layer_that_does_not_fit_raises_the_error_of_its_code() -> None:
    told: list[str] = []
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 3)).to("meta")
    arguments = (lambda path, args, kwargs: told.append(path), lambda path, out: told.append(f"/{path}"))
    with (
        pytest.raises(RuntimeError, match=r"must have same reduction dim|shapes cannot be multiplied"),
        told_of_calls(model, *arguments, lambda *operator: None),
    ):
        model(torch.zeros(2, 4, device="meta"))
    assert told == ["", "0", "/0", "1"]
    assert not any("forward" in vars(module) for module in model.modules())
