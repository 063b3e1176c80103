"""The latency of a network from the widths of its layers, each interpolated from a table."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

from torch import nn

from edakari.core.graph import Graph
from edakari.core.plan import KeepChannels, Plan
from edakari.core.space import Group, Sizes
from edakari.latency.budget_loop import LoopSettings
from edakari.latency.calibrate import chosen_sizes, random_sizes
from edakari.latency.measure_table import Wanted, wanted
from edakari.latency.predict import LatencyCost, latency_cost
from edakari.latency.predicted import PredictedLatency
from edakari.latency.table import Table, network_key

__all__ = ["WidthLatency", "first_channels"]


@dc.dataclass(frozen=True)
class WidthLatency:
    """Latency from the sizes of groups of channels; fulfils `LatencyModel`.

    Args:
        network: network on the CPU.
        graph: graph of the network on the inputs that are timed.
        groups: groups that may be pruned, with their legal sizes.
    """

    network: nn.Module
    graph: Graph
    groups: Sequence[Group]

    @property
    def key(self) -> str:
        """See `LatencyModel`."""
        return network_key(self.graph)

    @property
    def uses(self) -> Sequence[Wanted]:
        """See `LatencyModel`."""
        return wanted(self.graph, self.groups)

    @property
    def loop(self) -> LoopSettings:
        """See `LatencyModel`."""
        return LoopSettings()

    def samples(self, count: int, cost: PredictedLatency) -> Sequence[Plan]:
        """See `LatencyModel`: the dense network, and of the others half random and half as a solver chooses."""
        chosen = chosen_sizes(self.groups, cost, (count - 1) // 2)
        found = [{}, *random_sizes(self.groups, count - 1 - len(chosen)), *chosen]
        return [first_channels(self.graph, sizes) for sizes in found]

    def cost(self, table: Table) -> LatencyCost:
        """See `LatencyModel`."""
        return latency_cost(self.graph, table, self.groups)


def first_channels(graph: Graph, sizes: Sizes) -> Plan:
    """Return the plan that keeps the first channels of each group; which channels they are does not affect the time."""
    edits = [KeepChannels(name, tuple(range(size))) for name, size in sizes.items() if size < graph[name].size]
    return Plan(tuple(edits), graph.fingerprint, graph.inputs, "calibration")
