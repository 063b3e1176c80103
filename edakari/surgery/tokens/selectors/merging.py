"""ToMe: tokens that are alike are merged instead of dropped."""

from __future__ import annotations

import torch

__all__ = ["bipartite", "merge_tokens"]


def bipartite(metric_BND: torch.Tensor, alive_BN: torch.Tensor, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens go into which: bipartite soft matching (Bolya et al., 2023, section 3).

    Tokens are dealt out to two sets in turns; of the first set, the r that are most like one of the second go.

    Args:
        metric_BND: what tokens are compared by, by the cosine.
        alive_BN: 1 where a token may take part.
        r: how many go; at most half of them.

    Returns:
        Places of the tokens that go, and of those that they go into, both long [B, r].
    """
    metric = metric_BND / metric_BND.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    alike_BMN = metric[:, ::2] @ metric[:, 1::2].transpose(-1, -2)
    alike_BMN = alike_BMN.masked_fill(alive_BN[:, 1::2][:, None] == 0, -torch.inf)
    best_BM, into_BM = alike_BMN.max(-1)
    best_BM = best_BM.masked_fill(alive_BN[:, ::2] == 0, -torch.inf)
    source = best_BM.topk(r, dim=1).indices
    return 2 * source, 2 * into_BM.gather(1, source) + 1


def merge_tokens(
    x_BNC: torch.Tensor, size_BN: torch.Tensor, source_BR: torch.Tensor, into_BR: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every token that others go into becomes the mean of all, weighted by the patches that each stands for.

    Args:
        x_BNC: tokens; those that go stay in their places here.
        size_BN: patches that each stands for.
        source_BR: places of the tokens that go.
        into_BR: where they go.

    Returns:
        The tokens [B, N, C] and their sizes [B, N].
    """
    width = x_BNC.shape[-1]
    weighted = x_BNC * size_BN[..., None]
    moved = weighted.gather(1, source_BR[..., None].expand(-1, -1, width))
    weighted = weighted.scatter_add(1, into_BR[..., None].expand(-1, -1, width), moved)
    size = size_BN.scatter_add(1, into_BR, size_BN.gather(1, source_BR))
    return weighted / size[..., None], size
