"""Graphs of a network at other numbers of patches, and their MACs."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.plan import KeepTokens
from edakari.errors import ModelError
from edakari.graph import fixed_graph, shadow_of
from edakari.surgery.tokens.attachment import attach
from edakari.surgery.tokens.costs import TokenCost, block_macs, quadratic
from edakari.surgery.tokens.design import TokenDesign
from edakari.surgery.tokens.gate import GATE
from edakari.surgery.tokens.package_token import Packages
from edakari.surgery.tokens.sites import TokenSites

__all__ = ["graph_with_selectors", "selector_graphs", "stages_of", "token_graph", "token_macs"]

Settings = tuple[tuple[str, bool | int | float | str], ...]

PASSED = 0.7
"""Fraction of its tokens that a selector lets pass while its cost is determined."""


def graph_with_selectors(small: nn.Module, example: Any) -> Graph:
    """Trace a network with selectors.

    Raises:
        ModelError: the network does not run with fewer tokens.
    """
    try:
        return fixed_graph(small, example)
    except ModelError as error:
        raise ModelError(
            f"{type(small).__name__} does not run with fewer tokens: {error.__cause__ or error}. Its code may fix the "
            "number of tokens, or put them back on a grid; tokens of such networks cannot be removed"
        ) from error


def token_graph(
    model: nn.Module, example: Any, counts: Mapping[str, int], sites: TokenSites, settings: Settings = ()
) -> Graph:
    """Trace a network with a given number of patches at its blocks; it does not matter which patches remain.

    The graph serves for costs and for timing layers; nothing in it can be pruned.

    Args:
        model: the network without selectors.
        example: an input.
        counts: number of patches from the first block of each stage on, by the block's name.
        sites: blocks of the network.
        settings: settings of the edits, such as the kind of package.
    """
    whole = sites.firsts()
    edits = [KeepTokens(name, count, "random", settings) for name, count in counts.items() if count < whole[name]]
    return _traced(model, example, edits)


def selector_graphs(
    model: nn.Module, example: Any, design: TokenDesign, fractions: Sequence[float]
) -> dict[tuple[str, int], Graph]:
    """Trace a network with one selector of a design, which receives these fractions of all patches.

    In networks with stages, each stage has its selector, which receives all of the stage's patches.

    Args:
        model: the network without selectors.
        example: an input.
        design: selectors and their blocks.
        fractions: fractions of all patches.

    Returns:
        Graphs by the block behind the selector and the number of patches that it receives.
    """
    sites = design.sites
    if sites.staged:
        edits = design.edits(design.counts(1 - PASSED))
        graph, patches = _traced(model, example, edits), dict(zip(sites.names, sites.patches, strict=True))
        return {(edit.block, patches[edit.block]): graph for edit in edits}
    (first, whole), found = next(iter(sites.firsts().items())), {}
    index = max(1, design.blocks[0])  # merging and attention look at the block before
    for arriving in dict.fromkeys(max(2, round(fraction * whole)) for fraction in fractions):
        edits = dc.replace(design, blocks=(index,)).edits((max(1, round(PASSED * arriving)),))
        ahead = [KeepTokens(first, arriving, "random")] if arriving < whole else []
        found[sites.names[index], arriving] = _traced(model, example, [*ahead, *edits])
    return found


def _traced(model: nn.Module, example: Any, edits: Sequence[KeepTokens]) -> Graph:
    small = shadow_of(model, "meta")
    meta = torch.utils._pytree.tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, example)
    return graph_with_selectors(attach(small, edits, meta), meta) if edits else fixed_graph(small, meta)


def token_macs(model: nn.Module, example: Any, sites: TokenSites, packages: Packages = "one") -> TokenCost:
    """Return the MACs of a network as a function of the patches at its blocks, without the selectors' MACs.

    Args:
        model: the network.
        example: an input.
        sites: blocks of the network.
        packages: package tokens that its selectors make.
    """
    steps = [{name: max(1, count - back) for name, count in sites.firsts().items()} for back in range(3)]
    graphs = [token_graph(model, example, counts, sites) for counts in steps]
    found = [block_macs(each, sites.names, GATE)[::2] for each in graphs]
    most = max(sites.patches)
    if sites.staged:  # a straight line through two numbers, for a stage may have no more
        near, far = (each[0] for each in found[:2])
        table = quadratic([near, far, 2 * far - near], sites.patches, most)
    else:
        table = quadratic([each[0] for each in found], most, most + len(sites.blocks))
    return TokenCost("macs", "MAC", sites.names, most, packages, table, found[0][1], stages=stages_of(sites))


def stages_of(sites: TokenSites) -> Mapping[str, int]:
    """Return the stages for a cost; empty if there is only one."""
    return sites.firsts() if sites.staged else {}
