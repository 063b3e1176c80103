"""The latency of a vision transformer from its numbers of patches; the time of each block comes from a table."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from edakari.core.graph import Graph
from edakari.core.plan import Plan
from edakari.errors import MeasurementError
from edakari.graph import example_for, fixed_graph
from edakari.latency.budget_loop import LoopSettings
from edakari.latency.measure_table import Wanted, wanted
from edakari.latency.predict import call_overhead
from edakari.latency.predicted import PredictedLatency
from edakari.latency.table import Table, network_key
from edakari.surgery.tokens import TokenSites, token_sites
from edakari.surgery.tokens.costs import TokenCost, by_block, interpolated
from edakari.surgery.tokens.design import TokenDesign
from edakari.surgery.tokens.gate import GATE
from edakari.surgery.tokens.graphs import stages_of, token_graph

__all__ = ["TokenLatency"]

Floats = npt.NDArray[np.float64]

FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Fractions of all patches at which blocks are timed."""
STRENGTHS = (0.05, 0.15, 0.3, 0.5)
"""Strengths of the schedules whose networks are measured; others lie in between."""


@dc.dataclass(frozen=True)
class TokenLatency:
    """Latency from the number of patches that each block receives; fulfils `LatencyModel`.

    Args:
        network: network on the CPU.
        graph: graph of the network on the inputs that are timed.
        sites: blocks of the network.
        graphs: graph of the network at each timed fraction of its patches; 1 is the unpruned network.
    """

    network: nn.Module
    graph: Graph
    sites: TokenSites
    graphs: Mapping[float, Graph]

    @classmethod
    def of(cls, network: nn.Module, graph: Graph) -> TokenLatency:
        """Create the latency model of a network.

        Args:
            network: network on the CPU.
            graph: graph of the network on the inputs that are timed.

        Raises:
            ModelError: the network has no tokens, or does not run with fewer tokens.
        """
        example = example_for(network, graph.inputs)
        sites, known = token_sites(network, example), set()
        whole = sites.firsts()
        graphs = {1.0: fixed_graph(network, example)}
        for fraction in FRACTIONS:
            counts = {name: _count(fraction, patches) for name, patches in whole.items()}
            if counts != whole and tuple(counts.values()) not in known:
                graphs[fraction] = token_graph(network, example, counts, sites)
            known.add(tuple(counts.values()))
        return cls(network, graph, sites, graphs)

    @property
    def key(self) -> str:
        """See `LatencyModel`."""
        return f"tokens {network_key(self.graphs[1.0])}"

    @property
    def uses(self) -> Sequence[Wanted]:
        """See `LatencyModel`."""
        return [use for graph in self.graphs.values() for use in wanted(graph, ())]

    @property
    def loop(self) -> LoopSettings:
        """See `LatencyModel`."""
        return LoopSettings()

    def samples(self, count: int, cost: PredictedLatency) -> Sequence[Plan]:
        """See `LatencyModel`."""
        blocks = self.sites.quarters()
        design = TokenDesign(sites=self.sites, selector="random", blocks=blocks, settings={"package": "merge"})
        strengths = np.interp(np.linspace(0, len(STRENGTHS) - 1, count), range(len(STRENGTHS)), STRENGTHS)
        return [
            Plan(design.edits(design.counts(strength)), self.graph.fingerprint, self.graph.inputs)
            for strength in strengths.tolist()
        ]

    def cost(self, table: Table) -> TokenCost:
        """See `LatencyModel`."""
        sites, whole = self.sites, wanted(self.graphs[1.0], ())
        parts = {fraction: _by_block(graph, table, sites.names) for fraction, graph in self.graphs.items()}
        most = max(sites.patches)
        times = np.stack(
            [
                interpolated(
                    {_count(fraction, patches): part[0][[index]] for fraction, part in parts.items()},
                    most + len(sites.blocks),
                )[0]
                for index, patches in enumerate(sites.patches)
            ]
        )
        cost = TokenCost(
            *("latency", "ms", sites.names, most, "none" if sites.staged else "one", times, parts[1.0][2]),
            constant=call_overhead(table, len(whole)),
            stages=stages_of(sites),
        )
        fit = table.fits.get(self.key)
        return cost if fit is None else dc.replace(cost, constant=fit.constant_ms, scale=fit.scale)


def _count(fraction: float, patches: int) -> int:
    return max(1, round(fraction * patches))


def _by_block(graph: Graph, table: Table, blocks: Sequence[str]) -> tuple[Floats, float, float]:
    """Times of each block, of the selectors, and of all other layers: sums over their layers in a table, ms."""
    times = []
    for each in wanted(graph, ()):
        (point,) = each.points()
        if point not in table.samples:
            raise MeasurementError(f"the latency table {table.path} lacks the layer {each.use.layer}; measure it first")
        times.append((each.use.module, table.samples[point].minimum_ms))
    return by_block(times, blocks, GATE)
