"""The latency of a vision transformer from its widths and its numbers of tokens together."""

from __future__ import annotations

import collections
import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from edakari.core.graph import Graph
from edakari.core.incremental_cost import IncrementalCost
from edakari.core.plan import Plan
from edakari.core.space import Group, Sizes
from edakari.graph import example_for
from edakari.latency.budget_loop import LoopSettings
from edakari.latency.calibrate import random_sizes
from edakari.latency.layer_times import LayerTimes, Part
from edakari.latency.measure_table import Wanted, wanted
from edakari.latency.predict import LatencyCost, call_overhead, surface_of
from edakari.latency.predicted import PredictedLatency
from edakari.latency.surface import Surface
from edakari.latency.table import Table, network_key
from edakari.latency.tokens import ARRIVING, STRENGTHS, design_key, selector_times
from edakari.latency.widths import first_channels
from edakari.surgery.tokens.costs import TokenCost
from edakari.surgery.tokens.design import TokenDesign
from edakari.surgery.tokens.graphs import selector_graphs
from edakari.surgery.tokens.reduced import kept_at, reduced_graph, require_one_stage

__all__ = ["TokenWidthCost", "TokenWidthLatency"]

Floats = npt.NDArray[np.float64]

FRACTIONS = (1.0, 0.8, 0.6, 0.4, 0.2)
"""Fractions of all patches at which the layers of blocks are timed at all widths; others lie in between."""


@dc.dataclass(frozen=True)
class TokenWidthCost:
    """Predicted latency of a network by widths and numbers of tokens; fulfils `PredictedLatency`.

    Args:
        blocks: layer calls of each block and branch, by the number of patches and packages in the block. Calls outside
            of branches are under "".
        rest: layer calls outside of the blocks.
        selectors: times of the selectors alone.
        design: selectors and their blocks.
        constant: time of every call that does not depend on sizes, ms.
        scale: factor of the layers' times.
        name: name in a budget.
        unit: unit of the total.
    """

    blocks: Mapping[int, Sequence[Mapping[str, Sequence[Part]]]]
    rest: Sequence[Part]
    selectors: TokenCost
    design: TokenDesign
    constant: float = 0.0
    scale: float = 1.0
    name: str = "latency"
    unit: str = "ms"

    def at(self, sizes: Sizes) -> LatencyCost:
        """Return the latency of widths at fixed numbers of tokens, without dropped branches.

        Args:
            sizes: number of patches at blocks, named by `tokens_at`, and 0 for each branch that is dropped; others are
                left out.
        """
        parts = list(self.rest)
        for index, count in enumerate(kept_at(self.design.sites, sizes, self.design.packages)):
            for level, weight in _between(sorted(self.blocks), count):
                for branch, inside in self.blocks[level][index].items():
                    calls = weight * sizes.get(branch, 1)
                    parts += [dc.replace(part, calls=calls * part.calls) for part in inside if calls]
        constant = self.constant + self.scale * self.selectors.total(sizes)
        return LatencyCost(LayerTimes(parts), constant, self.scale, self.name)

    def total(self, sizes: Sizes) -> float:
        """Latency at these sizes, ms."""
        return self.at(sizes).total(sizes)

    def curve(self, group: Group, sizes: Sizes) -> Floats:
        """See `Cost`."""
        return self.at(sizes).curve(group, sizes)

    def incremental(self, sizes: Sizes) -> IncrementalCost:
        """See `edakari.core.incremental_cost.IncrementallyCosted`; widths may change, numbers of tokens stay."""
        return self.at(sizes).incremental(sizes)

    def predict(self, sizes: Sizes) -> float:
        """See `PredictedLatency`."""
        return self.at(sizes).predict(sizes)

    def weights(self, sizes: Sizes) -> float:
        """See `PredictedLatency`."""
        return self.at(sizes).weights(sizes)

    def corrected(self, sizes: Sizes, measured_ms: float) -> TokenWidthCost:
        """See `PredictedLatency`."""
        return self.scaled(measured_ms / self.total(sizes))

    def scaled(self, factor: float) -> TokenWidthCost:
        """See `PredictedLatency`."""
        return dc.replace(self, constant=self.constant * factor, scale=self.scale * factor)

    def named(self, name: str) -> TokenWidthCost:
        """See `PredictedLatency`."""
        return dc.replace(self, name=name)


@dc.dataclass(frozen=True)
class TokenWidthLatency:
    """Latency from widths and numbers of tokens; fulfils `LatencyModel`.

    Args:
        network: network on the CPU.
        graph: graph of the network on the inputs that are timed.
        groups: groups that may be pruned, with their legal sizes.
        design: selectors and their blocks.
        levels: graph of the network with a number of patches in all blocks, by this number.
        selectors: graphs with one selector, by the block behind it and the number of patches that it receives.
    """

    network: nn.Module
    graph: Graph
    groups: Sequence[Group]
    design: TokenDesign
    levels: Mapping[int, Graph]
    selectors: Mapping[tuple[str, int], Graph]

    @classmethod
    def of(cls, network: nn.Module, graph: Graph, groups: Sequence[Group], design: TokenDesign) -> TokenWidthLatency:
        """Create the latency model of a network.

        Args:
            network: network on the CPU.
            graph: graph of the network on the inputs that are timed.
            groups: groups that may be pruned, with their legal sizes.
            design: selectors and their blocks.

        Raises:
            ModelError: the network has several stages of tokens, or does not run with fewer.
        """
        design.check()
        require_one_stage(design.sites)
        sites = design.sites
        counts = dict.fromkeys(max(1, round(fraction * sites.patches[0])) for fraction in FRACTIONS)
        levels = {count: reduced_graph(graph, sites, (count,) * len(sites.blocks)) for count in counts}
        example = example_for(network, graph.inputs)
        return cls(network, graph, groups, design, levels, selector_graphs(network, example, design, ARRIVING))

    @property
    def key(self) -> str:
        """See `LatencyModel`."""
        return f"widths and tokens {network_key(self.graph)} {design_key(self.design)}"

    @property
    def uses(self) -> Sequence[Wanted]:
        """See `LatencyModel`."""
        levels = [use for graph in self.levels.values() for use in wanted(graph, self.groups)]
        return [*levels, *(use for graph in self.selectors.values() for use in wanted(graph, ()))]

    @property
    def loop(self) -> LoopSettings:
        """See `LatencyModel`."""
        return LoopSettings()

    def samples(self, count: int, cost: PredictedLatency) -> Sequence[Plan]:
        """See `LatencyModel`: the dense network, and networks of random widths, half of them with fewer tokens."""
        plans = [Plan((), self.graph.fingerprint, self.graph.inputs)]
        for index, sizes in enumerate(random_sizes(self.groups, count - 1)):
            strength = STRENGTHS[index // 2 % len(STRENGTHS)] if index % 2 else 0.0
            widths, tokens = first_channels(self.graph, sizes), self.design.edits(self.design.counts(strength))
            plans.append(dc.replace(widths, edits=(*widths.edits, *tokens)))
        return plans

    def cost(self, table: Table) -> TokenWidthCost:
        """See `LatencyModel`."""
        sites, fit = self.design.sites, table.fits.get(self.key)
        per_weight = fit.weights_ms / fit.scale / 1e6 if fit else 0.0
        surfaces: dict[Any, Surface] = {}
        blocks: dict[int, list[dict[str, tuple[Part, ...]]]] = {}
        for count, graph in self.levels.items():
            uses = self._by_branch(graph)
            blocks[count] = [
                {branch: _parts(inside, table, per_weight, surfaces) for branch, inside in uses[name].items()}
                for name in sites.names
            ]
        outside = self._by_branch(self.levels[max(self.levels)])[""]
        rest = _parts([each for inside in outside.values() for each in inside], table, per_weight, surfaces)
        most, none = max(sites.patches), np.zeros((len(sites.blocks), max(sites.patches) + len(sites.blocks) + 1))
        selectors = TokenCost(
            *("latency", "ms", sites.names, most, self.design.packages, none, 0.0),
            selectors=selector_times(self.design, self.selectors, table, none.shape[1] - 1),
        )
        constant = call_overhead(table, len(wanted(self.graph, ())))
        constant, scale = (fit.constant_ms, fit.scale) if fit else (constant, 1.0)
        return TokenWidthCost(blocks, rest, selectors, self.design, constant, scale)

    def _by_branch(self, graph: Graph) -> Mapping[str, Mapping[str, Sequence[Wanted]]]:
        """Layer calls by block, and by the branch in it; calls outside of them are under ""."""
        blocks = {name: (name,) for name in self.design.sites.names}
        branches = {branch.name: (*branch.modules, branch.exit) for branch in reversed(graph.branches)}
        found: dict[str, dict[str, list[Wanted]]] = {name: collections.defaultdict(list) for name in ("", *blocks)}
        for each in wanted(graph, self.groups):
            found[_holder(each.use.module, blocks)][_holder(each.use.module, branches)].append(each)
        return found


def _holder(module: str, paths: Mapping[str, Sequence[str]]) -> str:
    """Name of the first paths that contain a module; empty if none do."""
    inside = (name for name, each in paths.items() if any(f"{module}.".startswith(f"{path}.") for path in each))
    return next(inside, "")


def _parts(uses: Sequence[Wanted], table: Table, per_weight: float, surfaces: dict[Any, Surface]) -> tuple[Part, ...]:
    """The layer calls with their times; surfaces of equal layers are made once."""
    calls = collections.Counter((each.use.layer, each.use.widths) for each in uses)
    found = {}
    for each in uses:
        layer, widths = each.use.layer, each.use.widths
        surface = surfaces.get((layer, each.knots)) or surface_of(each, table, per_weight)
        surfaces[layer, each.knots] = surface
        found[layer, widths] = Part(layer, widths, surface, calls[layer, widths])
    return tuple(found.values())


def _between(levels: Sequence[int], count: int) -> list[tuple[int, float]]:
    """The two levels around a number of tokens and their weights; beyond the last level, that level's time grows."""
    if count in levels:
        return [(count, 1.0)]
    if count < levels[0] or count > levels[-1]:
        edge = levels[0] if count < levels[0] else levels[-1]
        return [(edge, 1.0 if count < levels[0] else count / edge)]
    upper = next(index for index, level in enumerate(levels) if level > count)
    share = (count - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return [(levels[upper - 1], 1.0 - share), (levels[upper], share)]
