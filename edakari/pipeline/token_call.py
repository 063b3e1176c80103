"""One call that prunes the tokens of a network to a budget, without data and without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.budget import Budget
from edakari.core.finite import require_finite
from edakari.core.graph import Graph
from edakari.core.method import Job
from edakari.core.networks import unwrapped
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.core.stability import experimental
from edakari.cost import dense
from edakari.errors import ModelError, UnknownName
from edakari.graph import call, trace
from edakari.latency.bench import Bench, Tell
from edakari.latency.budget_loop import ClosedLoop, LatencyTarget, LoopRound, TimedPair, retime_if_noisy
from edakari.latency.calibrate import FEWEST
from edakari.latency.model import calibrate, fill_table, known_fit
from edakari.latency.predicted import PredictedLatency
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, require_clock
from edakari.latency.tokens import TokenLatency
from edakari.methods.spvit import SoftTokenPruning
from edakari.methods.token_baselines import AttentionTokens, MergedTokens, PredictedTokens, RandomTokens
from edakari.methods.tokens.counts import planned
from edakari.surgery import apply
from edakari.surgery.tokens import token_sites
from edakari.surgery.tokens.design import TokenDesign

__all__ = ["planned_within", "prune_tokens"]

METHODS = {
    "tome": MergedTokens,
    "spvit": SoftTokenPruning,
    "dynamicvit": PredictedTokens,
    "evit": AttentionTokens,
    "random": RandomTokens,
}


@experimental("token pruning", "its settings, the form of its plans and the networks that it saves")
def prune_tokens(
    model: nn.Module,
    example: torch.Tensor,
    budget: Budget | str,
    *,
    by: Literal["tome", "spvit", "dynamicvit", "evit", "random"] = "tome",
    blocks: Sequence[int] = (),
    runtime: str = "onnxruntime",
    threads: int = 1,
    tell: Tell = lambda text: None,
) -> tuple[nn.Module, Plan]:
    """Fewer tokens in a trained vision transformer, as it is: no data, no training.

    Args:
        model: the network, on the CPU; stays as it is.
        example: its input, [batch, ...]; tokens are pruned for this size of images, and timed at this batch.
        budget: such as "macs<=60%" or "latency<=12ms"; a latency is measured here, and met by measurement.
        by: "tome" merges tokens that are alike, "spvit" keeps those least like the mean of all and packs the others,
            "dynamicvit" keeps the same and drops the others, "evit" keeps those that the class token looks at and packs
            the others, "random" drops by chance.
        blocks: places of the blocks in front of which tokens go; empty is the method's own choice.
        runtime: in which a latency is to be met.
        threads: CPU threads of one call.
        tell: told in words how it goes; `print` will do.

    Returns:
        The pruned network in evaluation mode, and its plan, for `edakari.save`.

    Raises:
        UnknownName: `by` is none of these.
        ModelError: the network has no tokens, or its attention cannot be wrapped, or its outputs are not finite.
        InfeasibleBudget: the budget cannot be met by fewer tokens.
        MeasurementError: the latency could not be measured or met.
    """
    require("prune_tokens(model, example, budget)", budget=(budget, (Budget, str)))
    if not isinstance(example, torch.Tensor):
        raise ModelError(f"tokens are pruned for one tensor as input, but the example is a {type(example).__name__}")
    if by not in METHODS:
        raise UnknownName("way to prune tokens without training", by, METHODS)
    model = unwrapped(model, "prune_tokens(model, example, budget)")
    require_finite(model, lambda: call(model, example))
    design = METHODS[by](blocks=tuple(blocks)).design(token_sites(model, example))
    asked = Budget.parse(budget) if isinstance(budget, str) else budget
    bench = Bench(runtime_named(runtime), RunSettings(threads=threads), example)
    plan = planned_within(model, asked, design, bench, tell)
    return apply(model, plan).eval(), plan


def planned_within(model: nn.Module, asked: Budget, design: TokenDesign, bench: Bench, tell: Tell) -> Plan:
    """The plan of a design within a budget; a latency in it is measured, and met by measurement.

    Args:
        model: the network, on the CPU.
        asked: in figures or shares.
        design: which selectors stand where.
        bench: where a latency is measured; tokens are pruned for its example.
        tell: told in words how it goes.

    Raises:
        InfeasibleBudget: the budget cannot be met by fewer tokens.
        MeasurementError: the latency could not be measured or met.
    """
    graph = trace(model, bench.example)
    timed = any(term.cost == "latency" for term in asked.terms)
    costs: Sequence[PredictedLatency] = (_latency(model, graph, bench, tell),) if timed else ()
    absolute = asked.absolute({**dense(graph), **{cost.name: cost.total({}) for cost in costs}})
    nothing: Any = None  # these selectors look at no data
    job = Job(model, graph, (), nothing, absolute, nothing, costs)

    def solve(given: Sequence[Cost]) -> Plan:
        return planned(job, design, given)

    def measured(plan: Plan) -> TimedPair:
        return retime_if_noisy(bench, model, apply(model, plan, graph), target.speed_ms)

    def told(number: int, found: LoopRound) -> None:
        tell(f"round {number}: {found.timing.pruned.median_ms:.3g} ms beside {found.timing.dense.median_ms:.3g} ms")

    if not timed:
        return solve(costs)
    target = LatencyTarget.of(asked, costs[0].total({}))
    plan, _ = ClosedLoop(costs[0], target, measured, told).run(solve, costs, None)
    return plan


def _latency(model: nn.Module, graph: Graph, bench: Bench, tell: Tell) -> PredictedLatency:
    require_clock(bench.runtime)
    dense_ms = bench.steady({"dense": model})["dense"].median_ms
    latency = TokenLatency.of(model, graph)
    table, _ = fill_table(latency, bench, tell)
    if known_fit(latency, table, FEWEST) is None:
        table, _ = calibrate(latency, bench, FEWEST, tell)
    return latency.cost(table).corrected({}, dense_ms)
