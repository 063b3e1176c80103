"""The latency of a network by its numbers of tokens: each block from a table, fitted to networks timed whole."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.graph import example_for, fixed_graph, trace
from edakari.latency import Table, extended, fit_latency, latency_cost, network_key, wanted
from edakari.latency.bench import Bench, Tell, filled_uses
from edakari.latency.calibrate import FEWEST
from edakari.latency.tokens import TokenCost, block_latencies, interpolated
from edakari.methods.tokens.counts import TokenDesign, stages_of, token_graph
from edakari.surgery import apply
from edakari.surgery.tokens import token_sites
from edakari.surgery.tokens.gate import GATE

__all__ = ["token_calibrated", "token_cost", "token_filled", "token_graphs", "token_key"]

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Of all patches, at which blocks are timed."""
STRENGTHS = (0.05, 0.15, 0.3, 0.5)
"""Of the schedules that are timed whole; as many as a fit needs."""


def token_graphs(model: nn.Module, graph: Graph) -> dict[float, Graph]:
    """Graphs of a network at the shares of its patches that are timed; 1 is the network as it is.

    Args:
        model: the network.
        graph: of it, on the inputs that are timed.
    """
    example = example_for(model, graph.inputs)
    sites, known = token_sites(model, example), set()
    whole = sites.firsts()
    found = {1.0: fixed_graph(model, example)}
    for share in SHARES:
        counts = {name: _count(share, patches) for name, patches in whole.items()}
        if counts != whole and tuple(counts.values()) not in known:
            found[share] = token_graph(model, example, counts, sites)
        known.add(tuple(counts.values()))
    return found


def _count(share: float, patches: int) -> int:
    return max(1, round(share * patches))


def token_filled(graphs: Mapping[float, Graph], bench: Bench, tell: Tell) -> tuple[Table, dict[str, Any]]:
    """The table with every block at every number of patches; see `edakari.latency.bench.filled`."""
    return filled_uses([use for graph in graphs.values() for use in wanted(graph, ())], bench, tell)


def token_key(graph: Graph) -> str:
    """What the calibration of a network's tokens is filed under; `graph` is that of `token_graphs` at share 1."""
    return f"tokens {network_key(graph)}"


def token_cost(model: nn.Module, graphs: Mapping[float, Graph], table: Table) -> TokenCost:
    """The predicted latency by numbers of tokens, with the network's calibration if the table has one.

    Args:
        model: the network.
        graphs: as `token_graphs` gives them.
        table: has their layers.

    Raises:
        MeasurementError: layers are missing in the table.
    """
    sites = token_sites(model, example_for(model, graphs[1.0].inputs))
    parts = {share: block_latencies(graph, table, sites.names, GATE) for share, graph in graphs.items()}
    most = max(sites.patches)
    times = np.stack(
        [
            interpolated(
                {_count(share, patches): part[0][[index]] for share, part in parts.items()}, most + len(sites.blocks)
            )[0]
            for index, patches in enumerate(sites.patches)
        ]
    )
    constant = latency_cost(graphs[1.0], dc.replace(table, fits={}), ()).constant
    cost = TokenCost(
        *("latency", "ms", sites.names, most, "none" if sites.staged else "one", times, parts[1.0][2]),
        constant=constant,
        stages=stages_of(sites),
    )
    fit = table.fits.get(token_key(graphs[1.0]))
    return cost if fit is None else dc.replace(cost, constant=fit.constant_ms, scale=fit.scale)


def token_calibrated(
    model: nn.Module, graphs: Mapping[float, Graph], bench: Bench, tell: Tell
) -> tuple[Table, dict[str, Any]]:
    """The table with a fit of the predictions to networks with fewer tokens that are timed whole.

    Args:
        model: the network, on the CPU.
        graphs: as `token_graphs` gives them.
        bench: where; its table has their layers.
        tell: told how it goes.

    Returns:
        The table, and how far predictions were off, as plain values.
    """
    table, dense = bench.table(), graphs[1.0]
    graph = trace(model, example_for(model, dense.inputs))
    sites = token_sites(model, example_for(model, dense.inputs))
    design = TokenDesign(selector="random", blocks=sites.quarters(), settings={"package": "merge"})
    plans = [
        Plan(design.edits(sites, design.counts(strength, sites)), graph.fingerprint, graph.inputs)
        for strength in STRENGTHS
    ]
    sizes = [plan.sizes() for plan in plans]
    cost = token_cost(model, graphs, dc.replace(table, fits={}))
    tell(
        f"{bench.runtime.name}: timing {FEWEST} networks with fewer tokens to fit the predictions: "
        + bench.expected(map(cost.predict, sizes))
    )
    timings = list(bench.timed({str(index): apply(model, plan, graph) for index, plan in enumerate(plans)}).values())
    measured = [timing.median_ms for timing in timings]
    fit = fit_latency(cost, sizes, measured)
    errors = np.abs(np.array([cost.predict(each) for each in sizes]) / measured - 1.0)
    return extended(table, {}, {token_key(dense): fit}), {
        "repeats": bench.repeats,
        "fit": dc.asdict(fit),
        "unfitted_median_error": float(np.median(errors)),
        "networks": [
            {"layers_ms": cost.predict(each), **dc.asdict(timing)} for each, timing in zip(sizes, timings, strict=True)
        ],
    }
