"""Groups of a fixed size: they have it, whatever the method, and the budget is spent on the others."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

import pytest
import torch

import edakari
from edakari.core.choosing import Groups, choose
from edakari.core.method import Method, Solve, method_named
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.cost import bind, dense, macs
from edakari.criteria import Magnitude
from edakari.errors import InfeasibleBudget
from edakari.graph import trace
from edakari.methods import allocate
from edakari.methods.fixed_widths import prune_with_fixed
from edakari.pipeline import recipe_from
from edakari.testing import ToyTask, toy_cnn, toy_job

WIDTHS = {"first.0": 5, "expand*": "50%", "left*": "100%"}
FIXED = {"first.0": 5, "expand.0": 16, "left.0": 12}
MODEL, X = toy_cnn(), torch.zeros(1, 3, 16, 16)
GRAPH = trace(MODEL, X)
SCORES = Magnitude().score(MODEL, GRAPH)


def sizes_of(plan: Plan) -> dict[str, int]:
    return {**{group.name: group.size for group in GRAPH.groups}, **plan.sizes()}


def test_allocate_spends_the_budget_on_the_other_groups() -> None:
    plan = allocate(GRAPH, SCORES, "macs<=30%", groups=Groups(widths=WIDTHS))
    assert {name: sizes_of(plan)[name] for name in FIXED} == FIXED
    share = dense(trace(edakari.apply(MODEL, plan), X))["macs"] / dense(GRAPH)["macs"]
    assert 0.28 < share <= 0.3
    free = [group for group in GRAPH.groups if group.name not in FIXED]
    # none of the others could take one channel more
    for group in free:
        more = {**plan.sizes(), group.name: min(group.size, sizes_of(plan)[group.name] + 1)}
        assert more[group.name] == sizes_of(plan)[group.name] or macs(GRAPH).total(more) > 0.3 * dense(GRAPH)["macs"]


def test_groups_without_widths_are_those_that_they_choose() -> None:
    settings = Groups(round_to=4, exclude=("stem.0",))
    one = allocate(GRAPH, SCORES, "macs<=50%", groups=settings)
    assert one == allocate(GRAPH, SCORES, "macs<=50%", groups=choose(GRAPH, settings).every)
    assert "stem.0" not in one.sizes()


SHORT = {"epochs": 4, "warmup_epochs": 1, "ramp_epochs": 2, "freeze_epochs": 1, "interval": 2}


@pytest.mark.parametrize(("name", "settings"), [("magnitude", {"iterations": 2}), ("taylor", {}), ("smcp", SHORT)])
def test_any_method_leaves_them_at_their_size(name: str, settings: dict) -> None:
    method: Method = method_named(name)(**settings)
    job = toy_job(toy_cnn(), "macs<=30%")
    outcome = prune_with_fixed(FIXED, method, job)
    small = edakari.apply(job.model, outcome.plan)
    assert {name: sizes_of(outcome.plan)[name] for name in FIXED} == FIXED
    assert {name: value.shape for name, value in small.state_dict().items()} == {
        name: value.shape for name, value in outcome.model.state_dict().items()
    }
    assert dense(trace(small, ToyTask().example()))["macs"] <= 0.3 * dense(job.graph)["macs"]


def test_measured_costs_and_their_loop_see_the_whole_network() -> None:
    """A measured cost is that of the dense network: every plan that the loop asks for meets it."""
    job = toy_job(toy_cnn(), "params<=60%")
    cost = dc.replace(macs(job.graph), name="latency", unit="ms")
    seen: list[Plan] = []

    def meet(solve: Solve, costs: Sequence[Cost], before: Plan | None = None) -> Plan:
        plan = solve(costs)
        seen.append(plan if before is None else before.then(plan))
        return plan

    budget = edakari.Budget.parse("latency<=30%").absolute({"latency": cost.total({})})
    job = dc.replace(job, budget=budget, costs=[cost], loop=meet)
    outcome = prune_with_fixed(FIXED, method_named("magnitude")(), job)
    (whole,) = seen
    assert whole.sizes() == outcome.plan.sizes()
    assert bind(budget, job.graph, [cost]).excess(whole.sizes()) <= 0
    assert {name: sizes_of(whole)[name] for name in FIXED} == FIXED


def test_widths_that_leave_too_little_are_one_error() -> None:
    settings = Groups(widths={"first.0": 24, "expand.0": "100%"})
    with pytest.raises(InfeasibleBudget, match="Widths of 2 groups are fixed, such as 'first"):
        allocate(GRAPH, SCORES, "macs<=3%", groups=settings)
    with pytest.raises(InfeasibleBudget, match="Widths of 2 groups are fixed"):
        prune_with_fixed({"first.0": 24, "expand.0": 32}, method_named("magnitude")(), toy_job(toy_cnn(), "macs<=3%"))
    every = Groups(widths={"*": "50%"})
    assert allocate(GRAPH, SCORES, "macs<=40%", groups=every).sizes()["first.0"] == 12
    with pytest.raises(InfeasibleBudget):
        allocate(GRAPH, SCORES, "macs<=3%", groups=every)


def test_a_recipe_says_them_as_python_does() -> None:
    content = {
        "model": {"name": "edakari:fashion_cnn", "weights": "random"},
        "method": "magnitude",
        "budget": "macs<=50%",
        "groups": {"widths": {"layer4.*": "75%", "conv1": 32, "fc": 0.5}},
    }
    recipe = recipe_from(content)
    assert recipe.groups == Groups(round_to=1, widths={"layer4.*": "75%", "conv1": 32, "fc": 0.5})
    assert recipe_from(recipe.content).groups == recipe.groups
