"""The suites pass what is right, and tell what is wrong."""

from __future__ import annotations

import dataclasses as dc
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from edakari.core.incremental_cost import incremental
from edakari.core.plan import DropBranch, KeepChannels
from edakari.core.protocols import Schedule
from edakari.core.space import dense_sizes, legal_sizes, limited
from edakari.cost import activations, macs, params
from edakari.cost.cost_after import CostAfter
from edakari.errors import PlanError
from edakari.graph import trace
from edakari.methods.score import ScorePruning
from edakari.solve import Threshold
from edakari.surgery import apply, simulate
from edakari.testing import (
    ProductCost,
    ToyTask,
    check_allocator,
    check_cost,
    check_criterion,
    check_method,
    random_plan,
    toy_cnn,
    toy_fit,
    toy_job,
    toy_vit,
)

NETWORKS = [toy_cnn, toy_vit]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("cost", [macs, params, activations])
def test_counted_costs_conform(network: Any, cost: Any) -> None:
    graph = trace(network(), ToyTask().example())
    check_cost(cost(graph), graph.groups)


def test_the_cost_from_a_formula_conforms() -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    names = [group.name for group in graph.groups]
    terms = ((2.0, (names[0], names[1])), (3.0, (names[2], names[2])), (5.0, ()))
    check_cost(ProductCost(dense_sizes(graph.groups), terms), graph.groups)


@dc.dataclass(frozen=True)
class Bent:
    """A cost, or an allocator or criterion, with one answer bent."""

    inner: Any
    name: str = "bent"
    unit: str = "MAC"
    shift: float = 0.0
    rise: float = 0.0

    def total(self, sizes: Any) -> float:
        return float(self.inner.total(sizes) + self.rise * len(sizes))

    def curve(self, group: Any, sizes: Any) -> np.ndarray:
        return np.asarray(self.inner.curve(group, sizes) + self.shift)


@pytest.mark.parametrize(
    ("bend", "text"), [({"shift": 1.0}, "entry"), ({"rise": 1e6}, "whole size"), ({"unit": ""}, "no unit")]
)
def test_a_wrong_cost_is_found(bend: dict[str, Any], text: str) -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    with pytest.raises(AssertionError, match=text):
        check_cost(Bent(macs(graph), **bend), graph.groups)


class Straying:
    """Increments that forgets every move."""

    def __init__(self, inner: Any, sizes: Any) -> None:
        self.total = inner.total(sizes)
        self.totals = incremental(inner, sizes).totals

    def move(self, name: str, size: int) -> None:
        pass


def test_a_walk_that_strays_is_found() -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    cost = Bent(macs(graph))
    object.__setattr__(cost, "incremental", lambda sizes: Straying(cost.inner, sizes))
    with pytest.raises(AssertionError, match="walk to another size of"):
        check_cost(cost, graph.groups)


def test_a_walk_of_what_is_left_of_a_network_conforms() -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    first, *others = graph.groups
    check_cost(CostAfter(macs(graph), {first.name: first.size - 1}), others)


class Greedy:
    """Overruns every budget."""

    def allocate(self, groups: Any, values: Any, limits: Any) -> Any:
        return dense_sizes(groups)


class Stingy:
    """Always the smallest sizes."""

    def allocate(self, groups: Any, values: Any, limits: Any) -> Any:
        return {group.name: legal_sizes(group)[0] for group in groups}


class Forgetful:
    """Leaves a group out."""

    def allocate(self, groups: Any, values: Any, limits: Any) -> Any:
        return dict(list(Threshold().allocate(groups, values, limits).items())[1:])


@pytest.mark.parametrize(("wrong", "text"), [(Greedy(), "overrun"), (Stingy(), "only"), (Forgetful(), "other groups")])
def test_a_wrong_allocator_is_found(wrong: Any, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_allocator(wrong)


@dc.dataclass(frozen=True)
class Careless:
    """A criterion that leaves something behind."""

    fault: str

    def score(self, model: Any, graph: Any, batches: Any, task: Any) -> Any:
        if self.fault == "random":
            torch.rand(1)
        if self.fault == "mode":
            model.eval()
        if self.fault == "weights":
            next(model.parameters()).data.add_(1)
        if self.fault == "gradient":
            next(model.parameters()).grad = None
        dtype = torch.float32 if self.fault == "float64" else torch.float64
        fill = float("nan") if self.fault == "finite" else 1.0
        groups = graph.groups[1:] if self.fault == "no scores" else graph.groups
        return {group.name: torch.full((group.size,), fill, dtype=dtype) for group in groups}


@pytest.mark.parametrize("fault", ["random", "mode", "weights", "gradient", "float64", "finite", "no scores"])
def test_a_careless_criterion_is_found(fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_criterion(Careless(fault))


@dc.dataclass(frozen=True)
class Faulty:
    """A method that breaks one promise."""

    fault: str
    paper: ClassVar[str] = "none"
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels})

    def prune(self, job: Any) -> Any:
        budget = "macs<=60%" if self.fault == "overrun" else None
        job = dc.replace(job, budget=toy_job(job.model, budget).budget) if budget else job
        outcome = ScorePruning().prune(job)
        if self.fault == "not among":
            edits = (*outcome.plan.edits, DropBranch("first"))
            return dc.replace(outcome, plan=dc.replace(outcome.plan, edits=edits))
        if self.fault == "differ":
            return dc.replace(outcome, model=job.model)
        return outcome


@pytest.mark.parametrize("fault", ["overrun", "not among", "differ"])
def test_a_faulty_method_is_found(fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_method(Faulty(fault), [toy_cnn()])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_random_plans_apply_as_they_simulate(network: Any, seed: int) -> None:
    model = network().double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    graph = trace(model, images[:1])
    plan = random_plan(graph, (0.2, 0.9), seed)
    with torch.no_grad():
        torch.testing.assert_close(apply(model, plan)(images), simulate(model, plan)(images), rtol=1e-9, atol=1e-9)


def test_random_plans_keep_shares_of_legal_size() -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    groups = limited(graph.groups, round_to=4)
    plan = random_plan(graph, 0.5, 1, groups)
    assert plan == random_plan(graph, 0.5, 1, groups)
    assert plan != random_plan(graph, 0.5, 2, groups)
    for group in groups:
        assert plan.sizes()[group.name] in legal_sizes(group)
        assert abs(plan.sizes()[group.name] - group.size / 2) <= 2
    assert random_plan(graph, 1.0).edits == ()
    with pytest.raises(PlanError, match="fraction to keep"):
        random_plan(graph, 0.0)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_toy_task_can_be_learnt(network: Any) -> None:
    task, model = ToyTask(), network()
    toy_fit(model, lambda net, batch: task.loss(task.outputs(net, batch), batch), Schedule(epochs=8, lr=0.02))
    assert task.evaluate(model)["accuracy"] > 0.8
