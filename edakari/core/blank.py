"""Inputs of zeros and batches of repeated inputs, with an error if they exceed this machine's memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch

from edakari.errors import ModelError

__all__ = ["blank", "repeated", "require_memory"]


def blank(*sizes: int) -> torch.Tensor:
    """Make an input of float32 zeros on the CPU.

    Raises:
        ModelError: it would not fit into this machine's memory.
    """
    require_memory(sizes, torch.float32.itemsize)
    return torch.zeros(sizes, device="cpu")


def repeated(example: torch.Tensor, batch: int) -> torch.Tensor:
    """Make a batch that repeats one input.

    Args:
        example: the input, [1, ...].
        batch: number of repetitions.

    Returns:
        [batch, ...].

    Raises:
        ModelError: it would not fit into this machine's memory.
    """
    require_memory((batch, *example.shape), example.element_size())
    return example.repeat(batch, *[1] * (example.dim() - 1))


def require_memory(sizes: Sequence[int], each: int) -> None:
    """Raise an error for an input that would not fit into this machine's memory.

    Args:
        sizes: sizes of its dimensions.
        each: bytes per value.

    Raises:
        ModelError: the input is too large; the message gives its size and the memory.
    """
    wanted, there = math.prod(sizes) * each, _memory()
    if wanted > there:
        raise ModelError(
            f"an input of {'×'.join(map(str, sizes))} takes {wanted / 1e9:.3g} GB, but this machine has a memory of "
            f"{there / 1e9:.3g} GB; use a smaller size or batch"
        )


def _memory() -> int:
    """Bytes of memory that the machine has; the largest allocation that PyTorch knows where that cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 2**62
