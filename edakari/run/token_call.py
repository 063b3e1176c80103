"""One call that prunes the tokens of a network to a budget, without data and without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from edakari.core.budget import Budget
from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.cost import dense
from edakari.cost.measure import RunSettings
from edakari.cost.runtimes import runtime_named
from edakari.cost.tokens import TokenCost
from edakari.errors import ModelError
from edakari.graph import trace
from edakari.methods.token_counts import TokenDesign, linear, planned, quarters
from edakari.run.bench import Bench, Tell
from edakari.run.rounds import Aim, Pair, Round, settled
from edakari.run.token_bench import token_calibrated, token_cost, token_filled, token_graphs, token_key
from edakari.surgery import apply
from edakari.surgery.tokens import token_layout

__all__ = ["prune_tokens"]


def prune_tokens(
    model: nn.Module,
    example: torch.Tensor,
    budget: Budget | str,
    *,
    by: Literal["tome", "evit", "random"] = "tome",
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
        by: "tome" merges tokens that are alike, "evit" keeps those that the class token looks at and packs the others,
            "random" drops by chance.
        blocks: places of the blocks in front of which tokens go; empty is the method's own choice.
        runtime: in which a latency is to be met.
        threads: CPU threads of one call.
        tell: told in words how it goes; `print` will do.

    Returns:
        The pruned network in evaluation mode, and its plan, for `edakari.save`.

    Raises:
        ModelError: the network has no tokens, or its attention cannot be wrapped.
        InfeasibleBudget: the budget cannot be met by fewer tokens.
        MeasurementError: the latency could not be measured or met.
    """
    if not isinstance(example, torch.Tensor):
        raise ModelError(f"tokens are pruned for one tensor as input, but the example is a {type(example).__name__}")
    graph = trace(model, example)
    depth = len(token_layout(model, example).blocks)
    if by == "tome":
        places = tuple(blocks) or tuple(range(1, depth))
        design = TokenDesign(selector=by, blocks=places, packages="none", schedule=linear)
    else:
        design = TokenDesign(selector=by, blocks=tuple(blocks) or quarters(depth), settings={"package": "merge"})
    asked = Budget.parse(budget) if isinstance(budget, str) else budget
    bench = Bench(runtime_named(runtime), RunSettings(threads=threads), example)
    timed = any(term.cost == "latency" for term in asked.terms)
    costs: Sequence[Cost] = (_latency(model, graph, bench, tell),) if timed else ()
    absolute = asked.absolute({**dense(graph), **{cost.name: cost.total({}) for cost in costs}})

    def solve(given: Sequence[Cost]) -> Plan:
        return planned(model, graph, absolute, design, given)

    def measured(plan: Plan) -> Pair:
        return Pair(**bench.steady({"dense": model, "pruned": apply(plan, model)}))

    def told(number: int, found: Round) -> None:
        tell(f"round {number}: {found.timing.pruned.median_ms:.3g} ms beside {found.timing.dense.median_ms:.3g} ms")

    if timed:
        limit = next(term.limit for term in absolute.terms if term.cost == "latency")
        share = any(term.cost == "latency" and term.relative for term in asked.terms)
        plan, _ = settled(solve, costs, None, Aim(limit, costs[0].total({}) if share else None), measured, told)
    else:
        plan = solve(costs)
    return apply(plan, model).eval(), plan


def _latency(model: nn.Module, graph: Graph, bench: Bench, tell: Tell) -> TokenCost:
    dense_ms = bench.steady({"dense": model})["dense"].median_ms
    graphs = token_graphs(model, graph)
    table, _ = token_filled(graphs, bench, tell)
    if token_key(graph) not in table.fits:
        table, _ = token_calibrated(model, graphs, bench, tell)
    return token_cost(model, graphs, table).corrected({}, dense_ms)
