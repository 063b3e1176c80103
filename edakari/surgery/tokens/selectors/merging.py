"""ToMe: similar tokens are merged instead of dropped."""

from __future__ import annotations

import torch

__all__ = ["bipartite", "merge_tokens"]


def bipartite(metric_BND: torch.Tensor, alive_BN: torch.Tensor, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Match tokens to merge: bipartite soft matching (Bolya et al., 2023, section 3).

    Tokens are assigned alternately to two sets. The r tokens of the first set with the most similar partner in the
    second set are merged into their partners.

    Args:
        metric_BND: features whose cosine similarity compares tokens.
        alive_BN: 1 for tokens that may take part.
        r: number of tokens to merge; at most half of them.

    Returns:
        Indices of the merged tokens and of their partners, both long [B, r].
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
    """Replace each partner by the mean of its tokens, weighted by the number of patches that each represents.

    Args:
        x_BNC: tokens; merged tokens stay at their positions here.
        size_BN: number of patches that each token represents.
        source_BR: indices of the merged tokens.
        into_BR: indices of their partners.

    Returns:
        The tokens [B, N, C] and their sizes [B, N].
    """
    width = x_BNC.shape[-1]
    weighted = x_BNC * size_BN[..., None]
    moved = weighted.gather(1, source_BR[..., None].expand(-1, -1, width))
    weighted = weighted.scatter_add(1, into_BR[..., None].expand(-1, -1, width), moved)
    size = size_BN.scatter_add(1, into_BR, size_BN.gather(1, source_BR))
    return weighted / size[..., None], size
