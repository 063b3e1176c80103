"""Unmerging: after the last block, every patch gets the output of the token that represents it.

A merged patch is represented by the token it was merged into (Bolya and Hoffman, Token Merging for Fast Stable
Diffusion, 2023), a pruned patch by the package that holds it. Parts after the blocks then see all patches on their
grid, so that a mean over patches weighs each token by the number of its patches.

Tokens have ids: a token of the dense network has its index in it, and packages have the numbers after these.
"""

from __future__ import annotations

from typing import Literal

import torch

from edakari.surgery.tokens.package_token import PackageMode
from edakari.surgery.tokens.rows import pick
from edakari.surgery.tokens.state import TokenState

__all__ = ["UNMERGES", "Unmerge", "note_merged", "note_packed", "unmerged"]

Unmerge = Literal["auto", "always", "never"]
"""Whether patches are unmerged; "auto" does it if a part after the blocks pools over patches."""
UNMERGES: tuple[Unmerge, ...] = ("auto", "always", "never")


def note_merged(state: TokenState, dense: int, patches: int, merged_BR: torch.Tensor, into_BR: torch.Tensor) -> None:
    """Record that tokens were merged into others.

    Args:
        state: state of the pass, changed in place.
        dense: number of tokens of the dense network, including the prefix.
        patches: number of patches of the dense network.
        merged_BR: ids of the merged tokens.
        into_BR: ids of the tokens that represent them now.
    """
    _rename(state, dense, patches, merged_BR, into_BR, dense + 1)


def note_packed(
    state: TokenState, dense: int, patches: int, id_BN: torch.Tensor, gone_BN: torch.Tensor, mode: PackageMode
) -> None:
    """Record that tokens were pruned into a package; called before the number of packages changes.

    Args:
        state: state of the pass, changed in place.
        dense: number of tokens of the dense network, including the prefix.
        patches: number of patches of the dense network.
        id_BN: id of each patch in the tensor, -1 for padding.
        gone_BN: 1 for patches that are pruned now.
        mode: what happens to an earlier package.
    """
    number = state.packages if mode == "append" else 0
    dump = dense + state.packages + 1
    new_BN = torch.where(gone_BN > 0, torch.full_like(id_BN, dense + number), id_BN)
    old_BN, new_BN = (torch.where(id_BN < 0, torch.full_like(each, dump), each) for each in (id_BN, new_BN))
    if mode != "append" and state.packages:  # one package takes over from all earlier ones
        packs = torch.arange(dense, dense + state.packages, device=id_BN.device).expand(len(id_BN), -1)
        old_BN, new_BN = torch.cat([old_BN, packs], 1), torch.cat([new_BN, torch.full_like(packs, dense)], 1)
    _rename(state, dense, patches, old_BN, new_BN, dump + 1)


def unmerged(x_BMC: torch.Tensor, state: TokenState, dense: int) -> torch.Tensor:
    """Return the tokens of the dense network, [B, prefix + patches, C]: each patch has the token that represents it.

    Args:
        x_BMC: tokens after the last block.
        state: state of the pass.
        dense: number of tokens of the dense network, including the prefix.
    """
    assert state.origin is not None
    assert state.index is not None
    present, packages = x_BMC.shape[1], state.packages
    dump = dense + packages
    index_BM = torch.where(state.index < 0, torch.full_like(state.index, dump), state.index)
    packs = torch.arange(dense, dump, device=x_BMC.device).expand(len(x_BMC), -1)
    index_BM = torch.cat([index_BM[:, : present - packages], packs], 1)
    rows = torch.arange(present, device=x_BMC.device).expand(len(x_BMC), -1)
    row_of_BD = torch.zeros_like(index_BM[:, :1]).expand(-1, dump + 1).scatter(1, index_BM, rows)
    return torch.cat([x_BMC[:, : state.prefix], pick(x_BMC, row_of_BD.gather(1, state.origin))], 1)


def _rename(state: TokenState, dense: int, patches: int, old_BK: torch.Tensor, new_BK: torch.Tensor, ids: int) -> None:
    """Replace ids of representatives."""
    same = torch.arange(ids, device=old_BK.device).expand(len(old_BK), -1)
    origin_BN = same[:, dense - patches : dense] if state.origin is None else state.origin
    state.origin = same.scatter(1, old_BK, new_BK).gather(1, origin_BN)
