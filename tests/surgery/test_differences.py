"""The comparison that checks rest on: whatever differs is seen, and what is not finite is never equal."""

from __future__ import annotations

import copy
import dataclasses as dc
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import edakari.surgery.differences as differences_module
from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.graph import trace
from edakari.surgery import apply
from edakari.surgery.differences import differences, other_inputs, worst_difference
from edakari.testing import difference, enlivened, exactness, random_plan, toy_cnn

X = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@dc.dataclass
class Found:
    """An output that pytorch does not look into."""

    logits: torch.Tensor
    count: int = 1


def outputs() -> dict[str, Any]:
    return {
        "logits": torch.tensor([[1.0, -4.0]]),
        "classes": torch.tensor([3, 1]),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "object": Found(torch.ones(2)),
        "text": ("a", None, 2),
    }


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nan": lambda out: out | {"logits": torch.tensor([[1.0, math.nan]])},
    "infinite": lambda out: out | {"logits": torch.tensor([[1.0, -math.inf]])},
    "type": lambda out: out | {"logits": out["logits"].double()},
    "shape": lambda out: out | {"logits": out["logits"].view(2)},
    "whole numbers": lambda out: out | {"classes": torch.tensor([3, 2])},
    "flags": lambda out: out | {"flags": torch.tensor([True, True])},
    "empty": lambda out: out | {"empty": torch.zeros(0, 3)},
    "tensor in an object": lambda out: out | {"object": Found(torch.tensor([1.0, math.nan]))},
    "number in an object": lambda out: out | {"object": Found(torch.ones(2), 2)},
    "text": lambda out: out | {"text": ("b", None, 2)},
    "number": lambda out: out | {"text": ("a", None, 3)},
    "key": lambda out: {**out, "more": torch.ones(1)},
    "form": lambda out: list(out.values()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_wrong_is_infinitely_different(name: str) -> None:
    assert worst_difference(CHANGES[name](outputs()), outputs()) == math.inf
    assert worst_difference(outputs(), CHANGES[name](outputs())) == math.inf


def test_differences_are_relative_to_the_largest_value() -> None:
    assert worst_difference(outputs(), outputs()) == 0.0
    changed = outputs() | {"logits": torch.tensor([[1.0, -3.0]])}
    assert worst_difference(changed, outputs()) == pytest.approx(0.25)
    changed = outputs() | {"object": Found(torch.tensor([1.0, 1.5]))}
    assert worst_difference(changed, outputs()) == pytest.approx(0.5)


def test_nan_is_not_equal_to_nan_and_nothing_is_not_equal_to_nothing() -> None:
    nan = torch.tensor([math.nan])
    assert worst_difference(nan, nan) == math.inf
    assert worst_difference((), ()) == math.inf
    assert difference(torch.zeros(2), torch.zeros(2)) == math.inf
    assert difference(torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)) == 0.0


@pytest.mark.parametrize("edits", [True, False])
@pytest.mark.parametrize("wrong", [math.nan, 1.0])
def test_a_wrong_network_is_seen(edits: bool, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `apply` spoils what a plan with edits makes, or with an empty plan."""
    model = enlivened(toy_cnn())
    graph = trace(model, X[:1])
    plan = random_plan(graph)
    assert exactness(model, X, plan) < 1e-12

    def spoiled(model: nn.Module, plan: Plan, graph: Graph) -> nn.Module:
        made = apply(model, plan, graph)
        if bool(plan.edits) == edits:
            made.get_parameter("head.bias").data[0] += wrong
        return made

    monkeypatch.setattr(differences_module, "apply", spoiled)
    assert exactness(model, X, plan) > 1e-3
    assert math.isinf(exactness(model, X, plan)) == math.isnan(wrong)
    found = differences(model, plan, [X], graph)
    assert (found.empty < 1e-12) == edits
    assert (found.cut < 1e-12) != edits


def test_what_holds_for_the_example_only_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that took a value of its example for a constant."""
    model = enlivened(toy_cnn())
    graph = trace(model, X[:1])
    plan = random_plan(graph)

    def constant(model: nn.Module, plan: Plan, graph: Graph) -> nn.Module:
        made = apply(model, plan, graph)
        with torch.no_grad():
            always = made(X)
        made.register_forward_hook(lambda module, args, output: always)
        return made

    monkeypatch.setattr(differences_module, "apply", constant)
    assert differences(model, plan, [X], graph).worst < 1e-12
    assert exactness(model, X, plan) > 1e-6


def test_a_network_that_gives_nan_is_not_exact() -> None:
    model = enlivened(toy_cnn())
    graph = trace(model, X[:1])
    plan = random_plan(graph)
    spoiled = copy.deepcopy(model)
    spoiled.get_parameter("head.bias").data[0] = math.nan
    assert exactness(spoiled, X, plan) == math.inf


def test_other_inputs_have_other_values_in_the_same_range() -> None:
    example = {"x": torch.zeros(2, 3), "ids": torch.arange(12).view(3, 4), "flag": True, "p": torch.rand(5)}
    other = other_inputs(example)
    assert other["flag"] is True
    assert other["x"].unique().numel() == 6
    assert not torch.equal(other["ids"], example["ids"])
    assert torch.equal(other["ids"].flatten().sort().values, torch.arange(12))
    assert torch.equal(other["p"].sort().values, example["p"].sort().values)
    assert torch.equal(other_inputs(example)["x"], other["x"])
