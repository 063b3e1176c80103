"""The baselines: what every method promises, and their steps."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from edakari.core.choosing import Groups
from edakari.core.method import Job, method_named, paper_of, registered
from edakari.core.space import limited
from edakari.cost import bind, dense
from edakari.criteria import CRITERIA, Magnitude
from edakari.errors import BudgetError, EdakariError, InfeasibleBudget, UnknownName, WrongArgument
from edakari.graph import trace
from edakari.methods import allocate
from edakari.methods.score import ScorePruning
from edakari.solve import Knapsack, Uniform
from edakari.surgery import apply
from edakari.tasks.own import Task
from edakari.testing import ToyTask, check_method, toy_cnn, toy_job, toy_vit

NAMES = ["magnitude", "bn_scale", "fpgm", "taylor", "random"]


@pytest.mark.parametrize("name", NAMES)
def test_conformance(name: str) -> None:
    check_method(method_named(name)())


def test_every_baseline_is_registered_and_names_its_paper() -> None:
    assert "score" in registered()
    assert all(paper_of(method_named(name)()) == CRITERIA[name].paper for name in NAMES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("allocator", ["uniform", "knapsack"])
def test_other_allocators_meet_the_budget(allocator: str) -> None:
    check_method(method_named("magnitude")(allocator=allocator))  # type: ignore[call-arg]


@pytest.mark.parametrize("network", [toy_cnn, toy_vit])
def test_steps_meet_the_budget_with_training_between_them(network: Any) -> None:
    model = network()
    seen: list[tuple[str, Mapping[str, float]]] = []
    trained: list[int] = []
    job = toy_job(model, "macs<=40%, params<=70%")

    def fit(model: Any, objective: Any, schedule: Any, **rest: Any) -> None:
        trained.append(schedule.epochs)
        job.fit(model, objective, schedule, **rest)

    job = dc.replace(job, groups=limited(job.groups, round_to=4))
    watched = dc.replace(job, log=lambda stage, figures: seen.append((stage, figures)), fit=fit)
    method = method_named("magnitude")(iterations=3, recovery_epochs=1)  # type: ignore[call-arg]
    outcome = method.prune(watched)
    whole = dense(job.graph)
    assert trained == [1, 1]
    assert [stage for stage, _ in seen] == ["iteration 1", "iteration 2", "iteration 3"]
    for part, (_, figures) in enumerate(seen, start=1):
        assert figures["macs"] <= whole["macs"] * 0.4 ** (part / 3) * (1 + 1e-9)
    assert bind(job.budget, job.graph).excess(outcome.plan.sizes()) <= 0
    assert all(
        size % 4 == 0 or group.kind == "head"
        for group in job.groups
        for size in [outcome.plan.sizes().get(group.name, 4)]
    )
    shapes = {name: tensor.shape for name, tensor in apply(network(), outcome.plan).state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in outcome.model.state_dict().items()}


def trained_between(method: Any, budget: str, task: Any = None) -> tuple[list[int], Any, list[str]]:
    """Epochs of each training between cuts, the outcome, and the stages of the log."""
    given, trained, stages = toy_job(toy_cnn(), budget), list[int](), list[str]()

    def fit(model: Any, objective: Any, schedule: Any, **rest: Any) -> None:
        trained.append(schedule.epochs)
        given.fit(model, objective, schedule, **rest)

    def log(stage: str, figures: Mapping[str, float]) -> None:
        stages.append(stage)

    job = dc.replace(given, fit=fit, log=log, task=task or given.task)
    outcome = method.prune(job)
    assert bind(job.budget, job.graph, job.costs).excess(outcome.plan.sizes()) <= 0
    return trained, outcome, stages


@pytest.mark.parametrize(
    ("budget", "settings", "epochs"),
    [
        ("macs<=40%", {}, []),
        ("macs<=39%", {}, [1]),
        ("macs<=90%, params<=30%", {}, [1, 1]),
        ("latency<=20%", {}, [1, 1, 1]),
        ("macs<=30%", {"recovery_epochs": 2}, [2, 2]),
        ("macs<=30%", {"recovery_epochs": 0}, []),
        ("macs<=30%", {"iterations": 1}, []),
        ("macs<=30%", {"iterations": 2}, []),
        ("macs<=30%", {"iterations": 2, "recovery_epochs": 1}, [1]),
    ],
)
def test_deep_budgets_are_reached_in_several_cuts(budget: str, settings: Any, epochs: list[int]) -> None:
    trained, outcome, stages = trained_between(ScorePruning(**settings), budget)
    assert trained == epochs
    assert bool(outcome.advice) is (budget != "macs<=40%" and not epochs)
    explained = [stage for stage in stages if "as the budget is deep" in stage]
    assert len(explained) == (bool(epochs) and "iterations" not in settings)


@pytest.mark.parametrize(
    "task",
    [
        Task.of(ToyTask().example()),
        Task.of(ToyTask().example(), train=ToyTask().batches("train")),  # without a loss
        Task.of(ToyTask().example(), train=[], loss=lambda model, batch: model(batch[0]).sum()),
    ],
)
def test_a_deep_budget_without_training_is_one_cut_and_says_so(task: Any) -> None:
    trained, outcome, stages = trained_between(ScorePruning(), "macs<=30%", task)
    assert trained == []
    assert stages == ["iteration 1"]
    assert outcome.advice == "fine-tune it before you use it: it was cut to 30% of its macs without training"
    assert not trained_between(ScorePruning(), "macs<=45%", task)[1].advice


def test_steps_without_training_give_the_network_of_the_joined_plan() -> None:
    job = toy_job(toy_cnn(), "macs<=30%")
    outcome = method_named("magnitude")(iterations=3).prune(job)  # type: ignore[call-arg]
    state = apply(toy_cnn(), outcome.plan).state_dict()
    for name, tensor in outcome.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_training_between_steps_helps_the_accuracy() -> None:
    task, model = ToyTask(), toy_cnn()
    job = toy_job(model, "macs<=50%")
    cut = method_named("magnitude")(iterations=3).prune(job).model  # type: ignore[call-arg]
    job = toy_job(model, "macs<=50%")
    trained = method_named("magnitude")(iterations=3, recovery_epochs=8).prune(job).model  # type: ignore[call-arg]
    assert task.evaluate(trained)["accuracy"] > task.evaluate(cut)["accuracy"] + 0.2


def test_groups_that_the_job_does_not_name_stay_whole() -> None:
    job = toy_job(toy_cnn(), "macs<=80%")
    job = dc.replace(job, groups=job.groups[1:3])
    outcome = method_named("magnitude")(iterations=2).prune(job)  # type: ignore[call-arg]
    assert set(outcome.plan.sizes()) <= {group.name for group in job.groups}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"recovery_epochs": -1}, "recovery_epochs must be at least 0"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, int], text: str) -> None:
    with pytest.raises(EdakariError, match=text):
        method_named("magnitude")(**settings).prune(toy_job(toy_cnn()))


def test_an_unknown_allocator_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'knapsack'"):
        method_named("magnitude")(allocator="knapsak")  # type: ignore[call-arg]


def test_a_budget_below_reach_says_what_can_be_reached() -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        trained_between(method_named("magnitude")(), "macs<=0.1%")
    assert caught.value.least["macs"] > 0

    def train(*args: Any, **rest: Any) -> None:
        raise AssertionError("trained for a budget out of reach")

    for settings in ({}, {"iterations": 3, "recovery_epochs": 1}):
        with pytest.raises(InfeasibleBudget):
            method_named("magnitude")(**settings).prune(dc.replace(toy_job(toy_cnn(), "macs<=0.1%"), fit=train))


def test_allocate_reads_shares_of_the_graph_and_text() -> None:
    model, task = toy_cnn(), ToyTask()
    graph = trace(model, task.example())
    scores = Magnitude().score(model, graph)
    plan = allocate(graph, scores, "macs<=50%, params<=60%", Knapsack())
    costs = dense(trace(apply(model, plan), task.example()))
    assert costs["macs"] <= 0.5 * dense(graph)["macs"]
    assert costs["params"] <= 0.6 * dense(graph)["params"]
    assert plan.fingerprint == graph.fingerprint
    assert plan.inputs == graph.inputs


def test_allocate_names_groups_without_scores() -> None:
    graph = trace(toy_cnn(), ToyTask().example())
    with pytest.raises(EdakariError, match=r"'stem\.0'"):
        allocate(graph, {}, "macs<=50%")


@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_step_is_solved_again_until_the_measurement_is_met(steps: int) -> None:
    job, met = toy_job(toy_cnn(), "latency<=60%"), []
    (cost,) = job.costs

    def meet_budget(solve: Any, costs: Any, before: Any) -> Any:
        first = before.then(solve(costs)).sizes()
        cut = solve([dc.replace(cost, terms=tuple((2 * factor, layouts) for factor, layouts in cost.terms))])
        met.append((cost.total(first), cost.total(before.then(cut).sizes())))
        return cut

    outcome = method_named("magnitude")(iterations=steps).prune(dc.replace(job, loop=meet_budget))  # type: ignore[call-arg]
    assert met == [(pytest.approx(job.budget.terms[0].limit, rel=0.02), cost.total(outcome.plan.sizes()))]
    assert met[0][1] == pytest.approx(job.budget.terms[0].limit / 2, rel=0.02)
    assert dense(trace(outcome.model, job.task.example()))["macs"] == met[0][1]


@pytest.mark.parametrize("budget", ["macs<=50%", "latency<=60%"])
def test_a_job_allocates_as_the_function_does(budget: str) -> None:
    job = toy_job(toy_cnn(), budget)
    scores = Magnitude().score(job.model, job.graph)
    for allocator in (None, Uniform()):
        wanted = allocate(job.graph, scores, job.budget, allocator, job.groups, job.costs)
        assert job.allocate(scores, allocator) == wanted
    fewer = dc.replace(job, groups=job.groups[:-1], loop=lambda solve, costs, before: solve(costs))
    assert job.groups[-1].name not in fewer.allocate(scores).sizes()
    bare = Job(job.model, job.graph, job.groups, job.task, job.budget, job.fit, job.costs)
    with pytest.raises(WrongArgument, match=r"allocating=edakari\.allocate"):
        bare.allocate(scores)


def test_a_measured_cost_that_is_not_given_is_told() -> None:
    job = toy_job(toy_cnn(), "latency<=60%")
    scores = Magnitude().score(job.model, job.graph, (), None)
    with pytest.raises(BudgetError, match=r"edakari\.measure_latency"):
        allocate(job.graph, scores, "macs<=50%, latency<=60%")
    for groups in (None, Groups(), Groups(min_channels=2)):  # widths are rounded as in a recipe
        sizes = allocate(job.graph, scores, "latency<=60%", groups=groups, costs=job.costs).sizes()
        assert sizes
        assert not any(size % 8 for size in sizes.values()), groups
    finer = allocate(job.graph, scores, "latency<=60%", groups=Groups(round_to=1), costs=job.costs).sizes()
    assert any(size % 8 for size in finer.values())
