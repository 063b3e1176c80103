"""The package token: what pruned tokens leave behind. One function, for training and for inference alike."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["PackageMode", "PackageNorm", "Packages", "package"]

PackageMode = Literal["none", "merge", "add", "append"]
"""What a selector does with an earlier package: nothing is packed; the mean of both; their sum; one more token."""

PackageNorm = Literal["mean", "sum"]

Packages = Literal["none", "one", "each"]
"""Package tokens that the selectors of a network leave: none, one in all, or one for each selector."""


def package(
    x_BNC: torch.Tensor,
    weight_BN: torch.Tensor,
    mode: PackageMode,
    norm: PackageNorm = "mean",
    before: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The token that stands for what is pruned now, and for what an earlier one stood for (Kong et al., 2022, 3.3).

    Args:
        x_BNC: tokens as the selector saw them.
        weight_BN: weight of each; 0 for those that stay.
        mode: what becomes of the earlier package; "append" leaves it alone.
        norm: "mean" is the weighted mean; "sum" the weighted sum, as the authors' released recipe has it.
        before: the earlier package, [B, C], and the weight that it stands for, [B].

    Returns:
        The package [B, C] and the weight it stands for [B]; where nothing was pruned ever, zeros and 0.
    """
    weight_BN = weight_BN.to(torch.promote_types(weight_BN.dtype, torch.float32))
    total_B = weight_BN.sum(1)
    sum_BC = torch.einsum("bn,bnc->bc", weight_BN, x_BNC.to(weight_BN.dtype))
    if before is not None:
        # a package that stands for nothing is a token that nobody reads, and may have become anything
        before = (before[0] * (before[1] > 0)[:, None].to(before[0].dtype), before[1])
    if before is not None and mode == "merge":
        old_BC, old_B = before
        whole_B = total_B + old_B
        made = (sum_BC + old_B[:, None] * old_BC) if norm == "mean" else sum_BC + old_BC
        return _divided(made, whole_B if norm == "mean" else None).to(x_BNC.dtype), whole_B
    made = _divided(sum_BC, total_B if norm == "mean" else None)
    if before is not None and mode == "add":
        return (before[0] + made).to(x_BNC.dtype), total_B + before[1]
    return made.to(x_BNC.dtype), total_B


def _divided(sum_BC: torch.Tensor, total_B: torch.Tensor | None) -> torch.Tensor:
    if total_B is None:
        return sum_BC
    # where nothing is pruned the sum is zero, and any divisor will do
    return sum_BC / torch.where(total_B > 0, total_B, torch.ones_like(total_B))[:, None]
