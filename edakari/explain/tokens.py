"""Views of the decisions of a run's token selectors on validation images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.core.plan import Plan
from edakari.core.protocols import Batch, Task
from edakari.graph import example_for
from edakari.report.tokens import TokenView
from edakari.surgery.tokens import Adaptive, token_sites

__all__ = ["token_view"]

LEARNED = ("spvit", "dynamicvit")
"""Selectors whose tokens may be chosen by thresholds."""


@torch.no_grad()
def token_view(dense: nn.Module, pruned: nn.Module, plan: Plan, task: Task, *, images: int = 512) -> TokenView:
    """Show the decisions of token selectors on the first validation images.

    Args:
        dense: the network before pruning.
        pruned: the pruned and fine-tuned network.
        plan: plan that pruned the network.
        task: task whose validation images are shown.
        images: number of images for which kept tokens are counted; six of them are shown.
    """
    batches: list[Batch] = []
    for batch in task.batches("val"):
        batches.append(batch)
        if sum(len(each[0]) for each in batches) >= images:
            break
    kept = _decided(Adaptive(pruned), task, batches[:1])
    counts: dict[str, npt.NDArray[np.int64]] = {}
    sites = token_sites(dense, example_for(dense, plan.inputs))
    if not sites.staged and all(edit.selector in LEARNED for edit in plan.tokens()):
        free = _decided(Adaptive(pruned, "mask", "threshold"), task, batches)
        counts = {block: each.sum(1).astype(np.int64) for block, each in free.items()}
    drawn = batches[0][0][:6].float().cpu()
    low, high = drawn.amin((1, 2, 3), keepdim=True), drawn.amax((1, 2, 3), keepdim=True)
    grids = {site.name: site.grid for site in sites.blocks}
    return TokenView(
        ((drawn - low) / (high - low).clamp_min(1e-6)).permute(0, 2, 3, 1).numpy(),
        {block: each[:6].reshape(-1, *grids[block]) for block, each in kept.items()},
        counts,
        {edit.block: edit.count for edit in plan.tokens()},
    )


def _decided(runner: Adaptive, task: Task, batches: Sequence[Batch]) -> dict[str, npt.NDArray[np.bool_]]:
    """For each block with a selector, which patches are kept, bool [images, patches]."""
    found: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        with eval_mode(runner):
            task.outputs(runner, batch)
        for decision in runner.decisions:
            found.setdefault(decision.block, []).append(decision.kept.cpu() > 0.5)
    return {block: torch.cat(each).numpy() for block, each in found.items()}
