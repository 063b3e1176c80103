"""Arrangements of tokens for strategies: selection, packing into one row, and restoring the grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["in_one_row", "pick", "restore", "side_by_side"]


def pick(x_BNC: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
    """Select rows of each image, [B, K, ...].

    This is one lookup over all images: gathers with an index per channel are several times slower in runtimes.

    Args:
        x_BNC: tokens, [B, N, ...].
        index_BK: indices into N.
    """
    batch, count = x_BNC.shape[:2]
    if batch == 1:
        return x_BNC.index_select(1, index_BK.flatten())
    first = torch.arange(batch, device=index_BK.device)[:, None] * count
    rows = x_BNC.flatten(0, 1).index_select(0, (index_BK + first).flatten())
    return rows.view(batch, index_BK.shape[1], *x_BNC.shape[2:])


def in_one_row(x_BNC: torch.Tensor, counts: Sequence[int], prefix: int, packages: int) -> torch.Tensor:
    """Concatenate the tokens of all images, [1, sum, ...].

    Args:
        x_BNC: tokens, [B, prefix + patches + packages, ...].
        counts: number of patches to take from the front of each image's patches.
        prefix: number of tokens at the front of each image.
        packages: number of tokens at the end of each image.
    """
    end = x_BNC.shape[1] - packages
    rows = [
        torch.cat([image[: prefix + count], image[end:]]) for image, count in zip(x_BNC.unbind(0), counts, strict=True)
    ]
    return torch.cat(rows)[None]


def side_by_side(
    x_1TC: torch.Tensor, lengths: Sequence[int], packages: int, fill: float = 0.0, dim: int = 1
) -> torch.Tensor:
    """Invert `in_one_row`: pad every image to the longest, between patches and packages.

    Args:
        x_1TC: all tokens, along `dim`.
        lengths: number of tokens of each image.
        packages: number of tokens at the end of each image.
        fill: padding value.
        dim: dimension of tokens.
    """
    longest = max(lengths)
    images = []
    for image in torch.split(x_1TC, list(lengths), dim=dim):
        count = image.shape[dim]
        shape = list(image.shape)
        shape[dim] = longest - count
        front, back = image.narrow(dim, 0, count - packages), image.narrow(dim, count - packages, packages)
        images.append(torch.cat([front, image.new_full(shape, fill), back], dim=dim))
    return torch.cat(images)


def restore(x_BNC: torch.Tensor, place_BN: torch.Tensor, patches: int, fill: float = 0.0) -> torch.Tensor:
    """Put tokens back at their positions on the grid, for operations that need a value at every patch.

    Args:
        x_BNC: tokens of the remaining patches.
        place_BN: patch index of each token, from 0; tokens with negative indices (packages) are dropped.
        patches: number of patches of the dense network.
        fill: value of pruned patches.

    Returns:
        [B, patches, C].
    """
    grid = x_BNC.new_full((x_BNC.shape[0], patches + 1, x_BNC.shape[2]), fill)
    index = torch.where(place_BN < 0, torch.full_like(place_BN, patches), place_BN)
    return grid.scatter(1, index[..., None].expand_as(x_BNC), x_BNC)[:, :patches]
