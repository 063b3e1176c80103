"""The package token, which summarises pruned tokens; one function for training and inference."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["PackageMode", "PackageNorm", "Packages", "package"]

PackageMode = Literal["none", "merge", "add", "append"]
"""Treatment of an earlier package: no packages, the mean of both, their sum, or an additional token."""

PackageNorm = Literal["mean", "sum"]

Packages = Literal["none", "one", "each"]
"""Package tokens of a network: none, one in total, or one for each selector."""


def package(
    x_BNC: torch.Tensor,
    weight_BN: torch.Tensor,
    mode: PackageMode,
    norm: PackageNorm = "mean",
    before: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the token that summarises newly pruned tokens and an earlier package (Kong et al., 2022, 3.3).

    Args:
        x_BNC: input tokens of the selector.
        weight_BN: weight of each token; 0 for tokens that stay.
        mode: treatment of the earlier package; "append" does not change it.
        norm: "mean" is the weighted mean; "sum" is the weighted sum, as in the authors' released recipe.
        before: the earlier package, [B, C], and its total weight, [B].

    Returns:
        The package [B, C] and its total weight [B]; zeros if nothing has been pruned.
    """
    weight_BN = weight_BN.to(torch.promote_types(weight_BN.dtype, torch.float32))
    total_B = weight_BN.sum(1)
    sum_BC = torch.einsum("bn,bnc->bc", weight_BN, x_BNC.to(weight_BN.dtype))
    if before is not None:
        # nothing reads an empty package, so its values may be arbitrary
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
    # if nothing is pruned, the sum is zero and any divisor works
    return sum_BC / torch.where(total_B > 0, total_B, torch.ones_like(total_B))[:, None]
