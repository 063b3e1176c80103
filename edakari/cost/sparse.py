"""Exact counts of networks whose single weights are masked, by layer, and the uniform figure of SuperTickets.

You et al., SuperTickets: Drawing Task-Agnostic Lottery Tickets from Supernets via Jointly Architecture Searching and
Parameter Pruning, ECCV 2022. Their code scales the dense multiply-accumulates of all layers by the fraction of the
maskable weights that stay. To compare with their tables, use that figure; `sparse_macs` counts layer by layer.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence

import numpy as np

from edakari.core.graph import Graph
from edakari.core.layout import extent, kept
from edakari.core.plan import Plan, channel_masks
from edakari.core.settings import NonNegative, Whole
from edakari.core.space import Sizes
from edakari.core.summaries import ROWS, count, rest
from edakari.core.tables import Table
from edakari.errors import PlanError
from edakari.graph.maskable import maskable_weights, weights_read

__all__ = ["LayerCounts", "MaskedWeights", "SparseCounts", "sparse_counts"]


@dc.dataclass(frozen=True, slots=True)
class LayerCounts:
    """Counts of a weight tensor that layers multiply their inputs with.

    Args:
        parameter: name of the weight.
        weights: its number of weights, after cuts of channels.
        kept: those among them that are not masked.
        macs: multiply-accumulates of the layers with it, for the traced example, zeros included.
        maskable: whether weights of this kind were to be masked.
    """

    parameter: str
    weights: int
    kept: int
    macs: int
    maskable: bool

    @property
    def sparse_macs(self) -> int:
        """Multiply-accumulates with weights that are not masked; each weight takes part in equally many."""
        return self.macs * self.kept // self.weights if self.weights else 0


@dc.dataclass(frozen=True, kw_only=True)
class MaskedWeights:
    """Counts of a pruned network with masked weights, as in `SparseCounts`.

    Args:
        kept: maskable weights that stay, among all `weights` that are maskable.
        params: parameters that are not masked.
        macs: multiply-accumulates without masked weights; `uniform_macs` are all of them times the kept fraction.
        layers: counts of each layer with maskable weights, in the network's order.
    """

    kept: Whole
    weights: Whole
    params: Whole
    macs: Whole
    uniform_macs: NonNegative
    layers: tuple[LayerCounts, ...] = ()


@dc.dataclass(frozen=True)
class SparseCounts:
    """Counts of a network with masked weights, at the sizes that a plan leaves.

    Args:
        layers: weights of convolutions and linear layers, in the network's order.
        params: parameters that the network stores, zeros included.
        sparse_params: those among them that are not masked.
        norm_params: parameters that belong to no layer, such as scales and shifts of norms.
        macs: multiply-accumulates, zeros included.
        sparse_macs: multiply-accumulates with weights that are not masked, and those without weights.
    """

    layers: tuple[LayerCounts, ...]
    params: int
    sparse_params: int
    norm_params: int
    macs: int
    sparse_macs: int

    @property
    def maskable(self) -> tuple[int, int]:
        """How many of the maskable weights stay, and how many there are."""
        layers = [layer for layer in self.layers if layer.maskable]
        return sum(layer.kept for layer in layers), sum(layer.weights for layer in layers)

    @property
    def sparsity(self) -> float:
        """Fraction of the maskable weights that are masked; 0 without any."""
        left, every = self.maskable
        return 1 - left / every if every else 0.0

    @property
    def layer_params(self) -> tuple[int, int]:
        """Unmasked parameters of layers with their biases, without norms, and all of them."""
        return self.sparse_params - self.norm_params, self.params - self.norm_params

    @property
    def uniform_macs(self) -> float:
        """Dense multiply-accumulates times the fraction of maskable weights that stay, as SuperTickets counts."""
        return self.macs * (1 - self.sparsity)

    def __repr__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        left, every = self.maskable
        masked = sorted(self.layers, key=lambda layer: layer.kept - layer.weights)
        return Table(
            f"Counts of a network with {self.sparsity:.1%} of its maskable weights masked",
            (
                ("maskable weights that stay", f"{left:,} of {every:,}"),
                ("parameters that stay", f"{self.sparse_params:,} of {self.params:,}"),
                ("without norms", "{:,} of {:,}".format(*self.layer_params)),
                ("MACs by layer", f"{count(self.sparse_macs)} of {count(self.macs)}"),
                ("MACs as SuperTickets counts", count(self.uniform_macs)),
            ),
            ("most masked", "weights", "stay", "MACs", "with weights"),
            tuple(_row(layer) for layer in masked[:ROWS]),
            rest(len(masked), "layers"),
        )


def _row(layer: LayerCounts) -> tuple[str, str, str, str, str]:
    figures = f"{layer.weights:,}", f"{layer.kept:,}", count(layer.macs), count(layer.sparse_macs)
    return (layer.parameter, *figures)


def sparse_counts(graph: Graph, plan: Plan, maskable: Sequence[str] | None = None) -> SparseCounts:
    """Count parameters and multiply-accumulates of a network with masked weights.

    They are savings only for a runtime that skips zeros; dense kernels store and multiply them.

    Args:
        graph: graph of the plan's dense network.
        plan: a plan with masks of weights, perhaps with cuts of channels and dropped branches.
        maskable: names of the weights that may be masked; None takes `maskable_weights(graph)`, and those that the plan
            masks.

    Raises:
        PlanError: the plan is of another network, prunes tokens, or masks weights that are not maskable; or it comes
            without its masks.
    """
    if plan.fingerprint != graph.fingerprint:
        raise PlanError(
            "sparse_counts(graph, plan): the graph is of another network than the one the plan was made for"
        )
    if plan.tokens():
        raise PlanError(
            "sparse_counts(graph, plan): the plan prunes tokens; count the masks of the network without them"
        )
    masks = plan.packed_masks()
    able = {*(maskable_weights(graph) if maskable is None else maskable)} | (
        set() if maskable is not None else {*masks}
    )
    if not masks.keys() <= able:
        raise PlanError(f"the plan masks {min(masks.keys() - able)!r}, which is not among the maskable weights")
    sizes, kept_of = plan.sizes(), _Kept(graph, plan).number
    macs, owner = _macs(graph, sizes)
    names = [name for name in graph.parameters if name in owner and _there(graph, name, sizes)]
    layers = []
    for name in names:
        weights = _extent(graph, name, sizes)
        left = kept_of(name) if name in masks else weights
        layers.append(LayerCounts(name, weights, left, owner[name], name in able))
    params = sum(_extent(graph, name, sizes) for name in graph.parameters)
    gone = sum(_extent(graph, name, sizes) - kept_of(name) for name in masks)
    return SparseCounts(
        tuple(layers),
        params,
        params - gone,
        _norm_params(graph, sizes),
        macs,
        macs - sum(layer.macs - layer.sparse_macs for layer in layers),
    )


class _Kept:
    """Number of weights of a masked parameter that are neither masked nor cut."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.masks, self.sizes = graph, plan.packed_masks(), plan.sizes()
        self.channels = channel_masks(plan, (dim for name in self.masks for dim in graph.layouts[name]))

    def number(self, name: str) -> int:
        """Count them."""
        if not _there(self.graph, name, self.sizes):
            return 0
        chosen = (kept(dim, self.channels) for dim in self.graph.layouts[name])
        return int(self.masks[name].array()[np.ix_(*chosen)].sum())


def _macs(graph: Graph, sizes: Sizes) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates of all operators, and of those that read each weight."""
    total, owner = 0, dict[str, int]()
    for index, operator in enumerate(graph.operators):
        around = math.prod(sizes.get(axis.group, 1) for axis in graph.enclosing_branches(index))
        macs = around * sum(
            constant * math.prod(int(extent(layout, sizes)) for layout in layouts)
            for constant, layouts in operator.macs
        )
        total += macs
        for name in weights_read(graph, index):
            owner[name] = owner.get(name, 0) + macs
    return total, owner


def _there(graph: Graph, name: str, sizes: Sizes) -> bool:
    return all(sizes.get(axis.group, 1) for axis in graph.enclosing_branches_of_tensor(name))


def _extent(graph: Graph, name: str, sizes: Sizes) -> int:
    there = _there(graph, name, sizes)
    return math.prod(int(extent(dim, sizes)) for dim in graph.layouts[name]) if there else 0


def _norm_params(graph: Graph, sizes: Sizes) -> int:
    """Parameters of modules without a weight that multiplies inputs."""
    reading = {name for index in range(len(graph.operators)) for name in weights_read(graph, index)}
    modules = {name.rpartition(".")[0] for name in reading}
    others = [name for name in graph.parameters if name.rpartition(".")[0] not in modules]
    return sum(_extent(graph, name, sizes) for name in others)
