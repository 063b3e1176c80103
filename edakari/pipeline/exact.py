"""The check of a run: its networks are what the plan says, in float64, on images that nothing was traced with."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from edakari.core.copying import copied
from edakari.errors import PlanError
from edakari.pipeline.context import Run
from edakari.surgery.differences import differences

__all__ = ["TOLERANCE", "check_exact"]

TOLERANCE = 1e-6
"""Between outputs that should be equal in float64, as a share of the largest output."""
IMAGES = 4
"""Of each of the two inputs."""


def check_exact(run: Run) -> float:
    """Compare the cut network with its masked twin, and what an empty plan makes of the dense one with itself.

    Args:
        run: has a plan.

    Returns:
        The largest difference, as a share of the largest output.

    Raises:
        PlanError: they differ, or an output is not finite.
    """
    network = copied(run.dense).cpu().double()
    found = differences(network, run.plan, list(_inputs(run)), run.graph)
    for difference, what in (
        (found.empty, "the network and what an empty plan makes of it"),
        (found.cut, "the cut network and its masked twin"),
    ):
        if not difference <= TOLERANCE:
            size = f"differ by {difference:.3g} of the largest output, where {TOLERANCE:g} is allowed"
            raise PlanError(
                f"{what} {size if math.isfinite(difference) else 'differ, or are not finite'}; this is "
                "a fault in edakari or in a rule of yours. Exclude the module with groups.exclude and report it."
            )
    return found.worst


def _inputs(run: Run) -> Iterator[torch.Tensor]:
    """Two different inputs, of validation images where there are enough of the right form."""
    example = run.task.example()
    generator = torch.Generator().manual_seed(run.recipe.seed)
    batch = next(iter(run.task.batches("val")))
    images = batch[0] if isinstance(batch, (list, tuple)) else None
    if not isinstance(images, torch.Tensor) or images.shape[1:] != example.shape[1:]:
        images = torch.randn(2 * IMAGES, *example.shape[1:], generator=generator)
    some = images[:IMAGES].double().cpu()
    yield some
    others = images[IMAGES : 2 * IMAGES].double().cpu()
    yield others if len(others) else some + torch.randn(some.shape, generator=generator, dtype=some.dtype)
