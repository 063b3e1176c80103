"""The latency of a network in a runtime that can only time whole networks; another cost replaces the table."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from edakari.core.graph import Graph
from edakari.core.incremental_cost import IncrementalCost, incremental
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.core.space import Group, Sizes
from edakari.graph import example_for
from edakari.latency.budget_loop import LoopSettings, affine
from edakari.latency.measure_table import Wanted
from edakari.latency.predicted import PredictedLatency
from edakari.latency.table import Table, network_key
from edakari.surgery.tokens import token_sites
from edakari.surgery.tokens.graphs import token_macs

__all__ = ["SurrogateLatency", "WholeLatency"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dc.dataclass(frozen=True)
class SurrogateLatency:
    """Another cost times a factor, in place of a latency without a table; fulfils `PredictedLatency`.

    Args:
        cost: cost that grows with the latency, such as multiply-accumulates.
        scale: ms per unit of this cost.
        constant: time of every call that does not depend on sizes, ms; a surrogate has none.
        name: name in a budget.
        unit: unit of the total.
    """

    cost: Cost
    scale: float = 1.0
    constant: float = 0.0
    name: str = "latency"
    unit: str = "ms"

    def total(self, sizes: Sizes) -> float:
        """See `Cost`."""
        return self.scale * self.cost.total(sizes)

    def curve(self, group: Group, sizes: Sizes) -> Floats:
        """See `Cost`."""
        return self.scale * self.cost.curve(group, sizes)

    def incremental(self, sizes: Sizes) -> IncrementalCost:
        """See `edakari.core.incremental_cost.IncrementallyCosted`."""
        return _ScaledIncrements(incremental(self.cost, sizes), self.scale)

    def predict(self, sizes: Sizes) -> float:
        """See `PredictedLatency`."""
        return self.total(sizes)

    def weights(self, sizes: Sizes) -> float:
        """See `PredictedLatency`; a surrogate is not fitted."""
        return 0.0

    def corrected(self, sizes: Sizes, measured_ms: float) -> SurrogateLatency:
        """See `PredictedLatency`."""
        return self.scaled(measured_ms / self.total(sizes))

    def scaled(self, factor: float) -> SurrogateLatency:
        """See `PredictedLatency`."""
        return dc.replace(self, scale=self.scale * factor)

    def named(self, name: str) -> SurrogateLatency:
        """See `PredictedLatency`."""
        return dc.replace(self, name=name)


@dc.dataclass
class _ScaledIncrements:
    steps: IncrementalCost
    scale: float

    @property
    def total(self) -> float:
        return self.scale * self.steps.total

    def totals(self, group: Group, choices: Ints) -> Floats:
        return self.scale * self.steps.totals(group, choices)

    def move(self, name: str, size: int) -> None:
        self.steps.move(name, size)


@dc.dataclass(frozen=True)
class WholeLatency:
    """The latency of a network whose layers cannot be timed one by one; fulfils `LatencyModel`.

    The closed loop alone finds the sizes, guided by a surrogate.

    Args:
        network: network on the CPU.
        graph: graph of the network on the inputs that are timed.
        surrogate: counted cost that grows with the latency, such as multiply-accumulates.
    """

    network: nn.Module
    graph: Graph
    surrogate: Cost

    @classmethod
    def of_tokens(cls, network: nn.Module, graph: Graph) -> WholeLatency:
        """Create the model of the latency over numbers of patches; the surrogate is the multiply-accumulates.

        Args:
            network: network on the CPU.
            graph: graph of the network on the inputs that are timed.
        """
        example = example_for(network, graph.inputs)
        sites = token_sites(network, example)
        return cls(network, graph, token_macs(network, example, sites, "none" if sites.staged else "one"))

    @property
    def key(self) -> str:
        """See `LatencyModel`."""
        return f"whole {network_key(self.graph)}"

    @property
    def uses(self) -> Sequence[Wanted]:
        """See `LatencyModel`."""
        return ()

    @property
    def loop(self) -> LoopSettings:
        """See `LatencyModel`."""
        return LoopSettings(rounds=12, correct=affine)

    def samples(self, count: int, cost: PredictedLatency) -> Sequence[Plan]:
        """See `LatencyModel`."""
        return ()

    def cost(self, table: Table) -> SurrogateLatency:
        """See `LatencyModel`."""
        return SurrogateLatency(self.surrogate)
