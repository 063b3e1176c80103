"""Random plans for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edakari.core.graph import Graph
from edakari.core.plan import DropBranch, Edit, KeepChannels, Plan
from edakari.core.space import Group, legal_sizes
from edakari.errors import PlanError

__all__ = ["random_plan"]


def random_plan(
    graph: Graph,
    keep: float | tuple[float, float] = 0.5,
    seed: int = 0,
    groups: Sequence[Group] | None = None,
    drop: float = 0.0,
) -> Plan:
    """Make a plan that keeps random channels of each group, and may drop branches and paths.

    Args:
        graph: graph of the network.
        keep: fraction of each group to keep, or a range from which each group draws its fraction.
        seed: equal seeds give equal plans.
        groups: the groups to cut, with their legal sizes; None cuts all groups of the graph.
        drop: probability that a residual branch or a parallel path is dropped.

    Returns:
        A plan with one edit per cut group; sizes are the nearest legal ones.

    Raises:
        PlanError: a fraction is not above 0 and at most 1.
    """
    low, high = keep if isinstance(keep, tuple) else (keep, keep)
    if not 0 < low <= high <= 1:
        raise PlanError(f"the fraction to keep must be above 0 and at most 1, but got {keep!r}")
    rng = np.random.default_rng(seed)
    edits: list[Edit] = []
    for group in graph.groups if groups is None else groups:
        wanted = group.size * rng.uniform(low, high)
        legal = np.array(legal_sizes(group))
        size = int(legal[np.abs(legal - wanted).argmin()])
        order = rng.permutation(group.size)
        if size < group.size:
            edits.append(KeepChannels(group.name, tuple(np.sort(order[:size]).tolist())))
    edits.extend(DropBranch(branch.name) for branch in (*graph.branches, *graph.paths) if rng.random() < drop)
    return Plan(tuple(edits), graph.fingerprint, graph.inputs, "random_plan")
