"""Inputs of zeros, and batches of one input over and over, refused where they are larger than this machine's memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch

from edakari.errors import ModelError

__all__ = ["blank", "repeated", "require_memory"]


def blank(*sizes: int) -> torch.Tensor:
    """An input of zeros, float32, on the CPU.

    Raises:
        ModelError: it would not fit into this machine's memory.
    """
    require_memory(sizes, torch.float32.itemsize)
    return torch.zeros(sizes, device="cpu")


def repeated(example: torch.Tensor, batch: int) -> torch.Tensor:
    """A batch of so many times the same input.

    Args:
        example: the input, [1, ...].
        batch: how many times.

    Returns:
        [batch, ...].

    Raises:
        ModelError: it would not fit into this machine's memory.
    """
    require_memory((batch, *example.shape), example.element_size())
    return example.repeat(batch, *[1] * (example.dim() - 1))


def require_memory(sizes: Sequence[int], each: int) -> None:
    """Refuse an input that would not fit into this machine's memory.

    Args:
        sizes: of its dimensions.
        each: bytes of a value.

    Raises:
        ModelError: says how much it takes, and how much there is.
    """
    wanted, there = math.prod(sizes) * each, _memory()
    if wanted > there:
        raise ModelError(
            f"an input of {'×'.join(map(str, sizes))} takes {wanted / 1e9:.3g} GB, but this machine has a memory of "
            f"{there / 1e9:.3g} GB; ask for a smaller size or batch"
        )


def _memory() -> int:
    """Bytes of memory that the machine has; the largest allocation that PyTorch knows where that cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 2**62
