"""Conformance suites for methods, criteria, allocators and costs; they raise AssertionError with the reason."""

from __future__ import annotations

import dataclasses as dc
import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edakari.core.arguments import require_methods
from edakari.core.budget import Limits
from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.incremental_cost import incremental
from edakari.core.method import Job, Method, Outcome
from edakari.core.plan import MaskWeights, Plan
from edakari.core.protocols import Allocator, Cost, Criterion, Values
from edakari.core.space import Group, Sizes, dense_sizes, legal_sizes
from edakari.cost import bind, dense
from edakari.cost.sparse import sparse_counts
from edakari.errors import InfeasibleBudget
from edakari.graph import fixed_graph, trace
from edakari.surgery import apply, simulate
from edakari.testing.costs import ProductCost
from edakari.testing.toys import ToyTask, toy_cnn, toy_job, toy_vit

__all__ = ["check_allocator", "check_cost", "check_criterion", "check_method"]


def check_method(
    method: Method | type[Method],
    networks: Sequence[nn.Module] | None = None,
    job_of: Callable[[nn.Module, str], Job] = toy_job,
) -> None:
    """Run a method on networks and check that it fulfils its protocol.

    Args:
        method: a method, or its class, which is used with its defaults.
        networks: trained networks; None uses the toy CNN and the toy transformer.
        job_of: function from a network and a budget as text to a job.

    Raises:
        AssertionError: the method breaks its protocol; the message says how.
    """
    method = method() if isinstance(method, type) else method
    require_methods("check_method(method)", "method", method, ("prune",))
    _check(dc.is_dataclass(method), f"{method!r} is not a dataclass")
    _check(type(method).__hash__ is not None, f"{method!r} is not frozen")
    _check(bool(method.paper), f"{type(method).__name__} names no paper")
    for network in [toy_cnn(), toy_vit()] if networks is None else networks:
        where = f"{type(method).__name__} on {type(network).__name__}"
        masks_only = method.emits == {MaskWeights}
        job = job_of(copied(network), "sparsity>=50%" if masks_only else "macs<=50%")
        outcome = method.prune(job)
        _check_plan(method, outcome, job, where)
        _check_network(outcome, network, job, where)
        again = method.prune(dc.replace(job, model=copied(network)))
        _check(again.plan == outcome.plan, f"{where}: the same job gave another plan the second time")
        if masks_only:
            continue  # no cost of it can be limited
        measured = job_of(copied(network), "latency<=60%")
        _check_plan(method, method.prune(measured), measured, f"{where} with a measured cost")
        whole = method.prune(job_of(copied(network), "macs<=100%"))
        _check_same_state(
            apply(network, whole.plan, job.graph), network, f"{where}: a budget of 100 % changed the network"
        )


def check_criterion(criterion: Criterion, networks: Sequence[nn.Module] | None = None) -> None:
    """Score networks, check the scores, and check that nothing was changed.

    Args:
        criterion: the criterion to check.
        networks: networks to score; None uses the toy CNN and the toy transformer.

    Raises:
        AssertionError: the criterion breaks its protocol; the message says how.
    """
    require_methods("check_criterion(criterion)", "criterion", criterion, ("score",))
    task = ToyTask()
    for network in [toy_cnn(), toy_vit()] if networks is None else networks:
        where = f"{criterion!r} on {type(network).__name__}"
        model = copied(network).train()
        next(model.children()).eval()
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 0.5)
            parameter.requires_grad_(number % 2 == 0)
        before, seen = copied(model), torch.get_rng_state()
        graph = trace(model, task.example())
        scores = criterion.score(model, graph, task.batches("calibration"), task)
        _check(bool((torch.get_rng_state() == seen).all()), f"{where}: the random state was changed")
        _check_same_state(model, before, f"{where}: weights or buffers were changed")
        for (name, module), other in zip(model.named_modules(), before.modules(), strict=True):
            _check(module.training == other.training, f"{where}: the mode of module {name!r} was changed")
        for name, parameter in model.named_parameters():
            _check(
                parameter.grad is not None and bool((parameter.grad == 0.5).all()),
                f"{where}: the gradient of {name!r} was changed",
            )
            other_flag = before.get_parameter(name).requires_grad
            _check(parameter.requires_grad == other_flag, f"{where}: requires_grad of {name!r} was changed")
        _check_scores(scores, graph, where)
        again = criterion.score(model, graph, task.batches("calibration"), task)
        same = all(torch.equal(again[name], score) for name, score in scores.items())
        _check(same, f"{where}: the same arguments gave other scores the second time")


def check_allocator(allocator: Allocator, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Allocate on random networks with coupled costs and check the sizes.

    Args:
        allocator: the allocator to check.
        seeds: seeds; each gives one random network.

    Raises:
        AssertionError: the allocator breaks its protocol; the message says how.
    """
    require_methods("check_allocator(allocator)", "allocator", allocator, ("allocate",))
    for seed in seeds:
        groups, values, costs = _instance(seed)
        for share, terms, some in ((0.5, 1, groups), (0.3, 2, groups), (0.8, 2, groups[: len(groups) // 2])):
            limits = Limits(tuple((cost, share * cost.total({})) for cost in costs[:terms]))
            where = f"{allocator!r} on instance {seed} with {limits.describe({})}"
            sizes = allocator.allocate(some, values, limits)
            _check_sizes(sizes, some, limits, where)
            _check(limits.excess(sizes) > -0.01, f"{where}: only {limits.describe(sizes)} was used")
            again = allocator.allocate(some, values, limits)
            _check(dict(again) == dict(sizes), f"{where}: the same arguments gave other sizes the second time")
        whole = allocator.allocate(groups, values, Limits(((costs[0], costs[0].total({})),)))
        _check(dict(whole) == dense_sizes(groups), f"{allocator!r}: a budget of 100 % cut something")
        least = costs[0].total({group.name: legal_sizes(group)[0] for group in groups})
        try:
            allocator.allocate(groups, values, Limits(((costs[0], least * 0.99),)))
        except InfeasibleBudget as error:
            _check(
                error.least == {costs[0].name: least}, f"{allocator!r}: least is {error.least}, but {least} is right"
            )
        else:
            raise AssertionError(f"{allocator!r}: a budget below the smallest cost {least} raised no InfeasibleBudget")


def check_cost(cost: Cost, groups: Sequence[Group], seed: int = 0) -> None:
    """Evaluate a cost at random sizes and check that its values are consistent.

    Args:
        cost: the cost to check.
        groups: groups that the cost depends on.
        seed: seed of the sizes.

    Raises:
        AssertionError: the cost breaks its protocol; the message says how.
    """
    require_methods("check_cost(cost, groups)", "cost", cost, ("total", "curve"))
    _check(bool(cost.name) and bool(cost.unit), f"{cost!r} has no name or no unit")
    rng = np.random.default_rng(seed)
    dense_total = cost.total({})
    _check(dense_total > 0, f"{cost.name}: the dense network costs {dense_total}")
    _check_close(cost.total(dense_sizes(groups)), dense_total, f"{cost.name}: groups named at whole size")
    for group in groups:
        sizes = {other.name: int(rng.integers(1, other.size + 1)) for other in groups if rng.random() < 0.7}
        curve = cost.curve(group, dict(sizes))
        where = f"{cost.name}, curve of {group.name!r}"
        _check(curve.shape == (group.size + 1,), f"{where}: shape {curve.shape}, but {(group.size + 1,)} is right")
        _check(curve.dtype == np.float64, f"{where}: dtype {curve.dtype}, but float64 is right")
        _check(bool(np.isfinite(curve[1:]).all()), f"{where}: an entry is not finite")
        _check(bool((np.diff(curve[1:]) >= -1e-9 * dense_total).all()), f"{where}: it falls as the group grows")
        for size in {1, group.size, int(rng.integers(1, group.size + 1))}:
            _check_close(float(curve[size]), cost.total({**sizes, group.name: size}), f"{where}, entry {size}")
    _check_incremental(cost, groups, rng)


def _check_incremental(cost: Cost, groups: Sequence[Group], rng: np.random.Generator) -> None:
    """Check that the incremental cost equals the cost at every step."""
    sizes = {group.name: int(rng.integers(1, group.size + 1)) for group in groups[1:]}
    steps = incremental(cost, sizes)
    for index in rng.permutation(np.tile(np.arange(len(groups)), 2)):
        group = groups[index]
        where = f"{cost.name}, walk to another size of {group.name!r}"
        choices = np.unique(rng.integers(1, group.size + 1, 3))
        for choice, found in zip(choices.tolist(), steps.totals(group, choices).tolist(), strict=True):
            _check_close(found, cost.total({**sizes, group.name: choice}), f"{where}, size {choice}")
        sizes[group.name] = int(rng.choice(choices))
        steps.move(group.name, sizes[group.name])
        _check_close(steps.total, cost.total(sizes), f"{where}, total")


def _check_plan(method: Method, outcome: Outcome, job: Job, where: str) -> None:
    plan = outcome.plan
    if job.budget.terms:
        limits = bind(job.budget.limits, job.graph, job.costs)
        _check(limits.excess(plan.sizes()) <= 0, f"{where}: the budget is overrun: {limits.describe(plan.sizes())}")
    if job.budget.sparsity:
        left, every = sparse_counts(job.graph, plan).maskable
        enough = every - left >= int(job.budget.sparsity * every)
        _check(enough, f"{where}: {every - left} of {every} weights are masked, fewer than {job.budget} asks for")
    _check(Plan.from_json(plan.to_json()) == plan, f"{where}: the plan is another one after a JSON round trip")
    _check(plan.fingerprint == job.graph.fingerprint, f"{where}: the plan's fingerprint is not the graph's")
    kinds = {type(edit) for edit in plan.edits}
    _check(kinds <= method.emits, f"{where}: edits {kinds - method.emits} are not among those it declares")
    legal = {group.name: legal_sizes(group) for group in job.groups}
    for name, size in plan.sizes().items():
        _check(size in legal.get(name, ()), f"{where}: size {size} of group {name!r} is not legal")


def _check_network(outcome: Outcome, network: nn.Module, job: Job, where: str) -> None:
    small = apply(copied(network), outcome.plan, job.graph)
    shapes, found = _shapes(small), _shapes(outcome.model)
    _check(
        shapes == found, f"{where}: apply(plan, fresh) and the outcome's model differ in {_differing(shapes, found)}"
    )
    costs = dense(fixed_graph(outcome.model, job.task.example()), job.budget)
    for term in job.budget.terms:
        _check(costs[term.cost] <= term.limit, f"{where}: the network has {costs[term.cost]} {term.cost}, above {term}")
    images = torch.randn(2, *job.task.example().shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cut = small.double().eval()(images.double())
        masked = simulate(copied(network), outcome.plan, job.graph).double().eval()(images.double())
        error = float((cut - masked).abs().max() / masked.abs().max())
        _check(error < 1e-9, f"{where}: apply and simulate differ by {error:.1e} of the largest output")
        model = outcome.model.eval()
        file = io.BytesIO()
        torch.export.save(torch.export.export(model, (images,)), file)
        exported = torch.export.load(io.BytesIO(file.getvalue())).module()(images)
        difference = float((exported - model(images)).abs().max())
        _check(difference < 1e-5, f"{where}: the exported network's outputs differ by {difference:.1e}")


def _check_scores(scores: Any, graph: Graph, where: str) -> None:
    for group in graph.groups:
        _check(group.name in scores, f"{where}: group {group.name!r} has no scores")
        score = scores[group.name]
        form = (tuple(score.shape), score.dtype, score.device.type)
        right = ((group.size,), torch.float64, "cpu")
        _check(form == right, f"{where}: scores of group {group.name!r} are {form}, but {right} is right")
        _check(bool(score.isfinite().all()), f"{where}: a score of group {group.name!r} is not finite")
        _check(not score.requires_grad, f"{where}: scores of group {group.name!r} hold on to a graph")


def _check_sizes(sizes: Sizes, groups: Sequence[Group], limits: Limits, where: str) -> None:
    _check(set(sizes) == {group.name for group in groups}, f"{where}: other groups are named than those given")
    for group in groups:
        _check(sizes[group.name] in legal_sizes(group), f"{where}: size {sizes[group.name]} of {group} is not legal")
    _check(limits.excess(sizes) <= 0, f"{where}: the budget is overrun: {limits.describe(sizes)}")


def _instance(seed: int) -> tuple[list[Group], Values, tuple[Cost, Cost]]:
    """A chain of layers with random widths, values and pixels per layer."""
    rng = np.random.default_rng(seed)
    groups = [
        Group(
            f"layer{index}", "channel", int(rng.integers(4, 30)) * 8, int(rng.choice([1, 4])), int(rng.choice([1, 8]))
        )
        for index in range(10)
    ]
    values = {}
    for group in groups:
        scores = np.sort(rng.lognormal(0, 0.5, group.size))[::-1]
        values[group.name] = np.concatenate([[0.0], np.cumsum(scores / scores.mean())])
    pairs = list(itertools.pairwise(groups))
    pixels = rng.integers(1, 50, len(pairs)).tolist()
    whole = dense_sizes(groups)
    macs = tuple((float(area), (a.name, b.name)) for area, (a, b) in zip(pixels, pairs, strict=True))
    params = (*((1.0, (a.name, b.name)) for a, b in pairs), *((2.0, (group.name,)) for group in groups))
    return groups, values, (ProductCost(whole, macs), ProductCost(whole, params, "params", "parameter"))


def _check(right: bool, text: str) -> None:
    if not right:
        raise AssertionError(text)


def _check_close(found: float, right: float, where: str) -> None:
    _check(bool(np.isclose(found, right, rtol=1e-9)), f"{where}: {found}, but {right} is right")


def _check_same_state(found: nn.Module, right: nn.Module, text: str) -> None:
    state, other = found.state_dict(), right.state_dict()
    _check(list(state) == list(other), f"{text}: other keys")
    for name, tensor in state.items():
        _check(torch.equal(tensor, other[name]), f"{text}: {name!r} differs")


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _differing(shapes: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    names = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
    return ", ".join(f"{name!r} {shapes.get(name)} and {found.get(name)}" for name in names[:4])
