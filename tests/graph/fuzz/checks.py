"""What must hold for any network."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator

import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Fixed, Layout
from edakari.core.plan import Plan
from edakari.cost import COSTS
from edakari.graph import trace
from edakari.graph.attention import SlimMultiheadAttention
from edakari.surgery import apply, simulate
from edakari.testing import difference, enlivened, random_plan
from tests.graph.fuzz.networks import Program, build

__all__ = ["check"]

TOLERANCE = 1e-9
SHARES = ((0.3, 0.7), (0.3, 0.7), (0.01, 1.0))


def check(program: Program, seed: int = 0) -> Graph:
    """Trace a network, cut it by random plans, and compare with what was promised.

    Returns:
        Its graph.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    model = enlivened(build(program), seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, program.pixels, program.pixels, dtype=torch.float64, generator=generator)
    graph = trace(model, images)
    again = trace(build(program), torch.zeros(3, 3, program.pixels, program.pixels))
    assert again.fingerprint == graph.fingerprint, "a second trace, of another batch, has another fingerprint"
    silent = [where for where in _whole(graph) if where not in {unprunable.where for unprunable in graph.unprunable}]
    assert not silent, f"nobody says why these stay whole: {silent}"
    # einsum and others go other ways about dimensions of one position
    wide = [dc.replace(group, least=max(group.least, min(2, group.size))) for group in graph.groups]
    for number, share in enumerate(SHARES):
        plan = random_plan(graph, share, seed + number, None if number else wide)
        small = apply(model, plan, graph)
        with torch.no_grad():
            error = difference(small(images), simulate(model, plan, graph)(images))
        assert error < TOLERANCE, f"differs by {error:.2g} at {plan.sizes()}"
        if not number:
            _check_gradients(small, images)
            _check_costs(graph, small, images, plan)
    return graph


def _whole(graph: Graph) -> Iterator[str]:
    """Dimensions of which nothing can be cut; kernels never are, and a single position is nothing to cut."""
    for name in graph.parameters:
        for index, layout in enumerate(graph.layouts[name][:2]):
            if _is_whole(layout):
                yield f"{name}[{index}]"


def _is_whole(layout: Layout) -> bool:
    return isinstance(layout, Fixed) and layout.size > 1


def _check_gradients(small: nn.Module, images: torch.Tensor) -> None:
    sum(output.square().sum() for output in small(images)).backward()


def _check_costs(graph: Graph, small: nn.Module, images: torch.Tensor, plan: Plan) -> None:
    after = trace(small, images)
    # torch takes its own attention apart, where ours, which takes its place, goes whole: other tensors in between
    slim = any(isinstance(module, SlimMultiheadAttention) for module in small.modules())
    for name in ("macs", "params") if slim else COSTS:
        said, found = COSTS[name](graph).total(plan.sizes()), COSTS[name](after).total({})
        assert said == found, f"{name}: the graph says {said}, the cut network has {found} at {plan.sizes()}"
