"""EViT's selector: attention of the class token to each token."""

from __future__ import annotations

import torch
from torch import nn

from edakari.errors import PlanError
from edakari.surgery.tokens.selectors.base import Candidates, Site, Verdict, selector

__all__ = ["AttentionSelector"]


@selector("evit", attention=True)
class AttentionSelector(nn.Module):
    """Scores by the class token's attention in the previous block, averaged over heads (Liang et al., 2022, eq. 3).

    Networks without a class token use the mean attention of all tokens. differs: tokens are removed between two blocks,
    not between the attention and the MLP of one block, so that no block's code has to be rewritten.

    Args:
        site: position of the selector.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.index = site.index
        if site.index == 0:
            raise PlanError("the selector 'evit' looks at the attention of the block before it; block 0 has none")

    def forward(self, seen: Candidates) -> Verdict:
        """See `Selector`."""
        if seen.attended is None:
            raise PlanError(
                f"the selector 'evit' at block number {self.index} looks at the queries and keys of the block before "
                "it, which are seen in scaled_dot_product_attention and nn.MultiheadAttention alone; take 'spvit', "
                "'dynamicvit' or 'random'"
            )
        q_BHND, k_BHND = seen.attended
        q_BHMD = q_BHND[:, :, :1] if seen.prefix else q_BHND
        logits = (q_BHMD @ k_BHND.transpose(-1, -2)) * q_BHND.shape[-1] ** -0.5
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        gone = torch.cat([torch.ones_like(seen.alive[:, :1]).expand(-1, seen.prefix), seen.alive], 1) == 0
        attention_BHMN = logits.masked_fill(gone[:, None, None], -torch.inf).softmax(-1)
        if seen.prefix:
            attention_BN = attention_BHMN.mean((1, 2))
        else:
            asking = seen.alive.to(logits.dtype)
            attention_BN = torch.einsum("bhmn,bm->bn", attention_BHMN, asking / asking.sum(1, keepdim=True))
            attention_BN = attention_BN / logits.shape[1]
        attention_BN = attention_BN[:, seen.prefix : seen.prefix + seen.patches]
        # a logit, so that all selectors' scores are read alike
        return Verdict(torch.logit(attention_BN, eps=torch.finfo(attention_BN.dtype).tiny), attention_BN)
