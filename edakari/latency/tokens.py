"""The latency of a vision transformer from its numbers of patches; blocks and selectors are timed one by one."""

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
from edakari.latency.predict import call_overhead, operator_overhead
from edakari.latency.predicted import PredictedLatency
from edakari.latency.table import Table, network_key
from edakari.surgery.tokens.costs import TokenCost, by_block, interpolated
from edakari.surgery.tokens.design import TokenDesign
from edakari.surgery.tokens.gate import GATE
from edakari.surgery.tokens.graphs import selector_graphs, stages_of, token_graph
from edakari.surgery.tokens.selectors import MERGER

__all__ = ["ARRIVING", "STRENGTHS", "TokenLatency", "design_key", "selector_times"]

Floats = npt.NDArray[np.float64]

FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Fractions of all patches at which blocks are timed."""
ARRIVING = (1.0, 0.7, 0.4, 0.15)
"""Fractions of all patches at which selectors are timed."""
STRENGTHS = (0.05, 0.15, 0.3, 0.5)
"""Strengths of the schedules whose networks are measured; others lie in between."""
WEIGHTED = (("package", "merge"), ("proportional", True))
"""Settings by which attention counts a package as many times as it has tokens, which adds a bias to its logits."""


@dc.dataclass(frozen=True)
class TokenLatency:
    """Latency from the number of patches that each block receives; fulfils `LatencyModel`.

    Args:
        network: network on the CPU.
        graph: graph of the network on the inputs that are timed.
        design: selectors and their blocks.
        graphs: graph of the network at each number of tokens at its blocks, without the prefix, as a fraction of all
            patches; 1 is the unpruned network.
        selectors: graphs with one selector, by the block behind it and the number of patches that it receives.
    """

    network: nn.Module
    graph: Graph
    design: TokenDesign
    graphs: Mapping[float, Graph]
    selectors: Mapping[tuple[str, int], Graph]

    @classmethod
    def of(cls, network: nn.Module, graph: Graph, design: TokenDesign) -> TokenLatency:
        """Create the latency model of a network.

        Args:
            network: network on the CPU.
            graph: graph of the network on the inputs that are timed.
            design: selectors and their blocks.

        Raises:
            ModelError: the network does not run with fewer tokens.
        """
        design.check()
        example, sites, known = example_for(network, graph.inputs), design.sites, set()
        whole = sites.firsts()
        weighted = not sites.staged and (design.selector == MERGER or bool(design.settings.get("proportional")))
        graphs = {1.0: fixed_graph(network, example)}
        for fraction in FRACTIONS:
            tokens = {name: _count(fraction, patches) for name, patches in whole.items()}
            counts = {name: count - weighted for name, count in tokens.items()}
            if tokens != whole and tuple(counts.values()) not in known and min(counts.values()) >= 1:
                graphs[fraction] = token_graph(network, example, counts, sites, WEIGHTED if weighted else ())
            known.add(tuple(counts.values()))
        return cls(network, graph, design, graphs, selector_graphs(network, example, design, ARRIVING))

    @property
    def key(self) -> str:
        """See `LatencyModel`."""
        return f"tokens {network_key(self.graphs[1.0])} {design_key(self.design)}"

    @property
    def uses(self) -> Sequence[Wanted]:
        """See `LatencyModel`."""
        return [use for graph in (*self.graphs.values(), *self.selectors.values()) for use in wanted(graph, ())]

    @property
    def loop(self) -> LoopSettings:
        """See `LatencyModel`."""
        return LoopSettings()

    def samples(self, count: int, cost: PredictedLatency) -> Sequence[Plan]:
        """See `LatencyModel`."""
        strengths = np.interp(np.linspace(0, len(STRENGTHS) - 1, count - 1), range(len(STRENGTHS)), STRENGTHS)
        plans = [self.design.edits(self.design.counts(strength)) for strength in strengths.tolist()]
        return [Plan(edits, self.graph.fingerprint, self.graph.inputs) for edits in ((), *plans)]

    def cost(self, table: Table) -> TokenCost:
        """See `LatencyModel`."""
        sites, whole = self.design.sites, wanted(self.graphs[1.0], ())
        parts = {fraction: _by_block(graph, table, sites.names) for fraction, graph in self.graphs.items()}
        most = max(sites.patches)
        last = most + len(sites.blocks)
        times = np.stack(
            [
                interpolated({_count(fraction, patches): part[0][[index]] for fraction, part in parts.items()}, last)[0]
                for index, patches in enumerate(sites.patches)
            ]
        )
        cost = TokenCost(
            *("latency", "ms", sites.names, most, self.design.packages, times, parts[1.0][2]),
            selectors=selector_times(self.design, self.selectors, table, last),
            constant=call_overhead(table, len(whole)),
            stages=stages_of(sites),
        )
        fit = table.fits.get(self.key)
        return cost if fit is None else dc.replace(cost, constant=fit.constant_ms, scale=fit.scale)


def design_key(design: TokenDesign) -> str:
    """Return the selectors and their blocks as a text."""
    settings = ",".join(f"{name}={value}" for name, value in sorted(design.settings.items()))
    return f"{design.selector} {','.join(map(str, design.blocks))} {settings}"


def selector_times(design: TokenDesign, graphs: Mapping[tuple[str, int], Graph], table: Table, most: int) -> Floats:
    """Return the time of a selector before each block by the number of tokens that it receives, ms, [blocks, most + 1].

    Args:
        design: selectors and their blocks.
        graphs: graphs with one selector, by the block behind it and the number of patches that it receives.
        table: table with the times of their layers.
        most: largest number of tokens.
    """
    names, found = design.sites.names, {}
    for (block, arriving), graph in graphs.items():
        ((_, own, _), count) = _by_block(graph, table, (block,)), len(_within(graph, block))
        found[block, arriving] = own + operator_overhead(table) * count
    if not design.sites.staged:
        points = {arriving: np.array([ms]) for (_, arriving), ms in found.items()}
        return np.repeat(interpolated(points, most), len(names), 0)
    times = np.zeros((len(names), most + 1))
    for (block, _), ms in found.items():
        times[names.index(block)] = ms
    return times


def _count(fraction: float, patches: int) -> int:
    return max(1, round(fraction * patches))


def _within(graph: Graph, block: str) -> list[Wanted]:
    """The layer calls of a block's selector."""
    return [each for each in wanted(graph, ()) if f"{each.use.module}.".startswith(f"{block}.{GATE}.")]


def _by_block(graph: Graph, table: Table, blocks: Sequence[str]) -> tuple[Floats, float, float]:
    """Times of each block, of the selectors, and of all other layers: sums over their layers in a table, ms."""
    times = []
    for each in wanted(graph, ()):
        (point,) = each.points()
        if point not in table.samples:
            raise MeasurementError(f"the latency table {table.path} lacks the layer {each.use.layer}; measure it first")
        times.append((each.use.module, table.samples[point].minimum_ms))
    return by_block(times, blocks, GATE)
