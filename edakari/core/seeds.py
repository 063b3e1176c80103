"""Seeds of several purposes out of one: what is drawn for one purpose says nothing of what is drawn for another."""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["derived_seed"]


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, the same every time and on every machine.

    NumPy's generators of `0`, `(0, 0)` and `(0, 0, 0)` draw the same numbers, so that seeds that are used as they are,
    beside the numbers of epochs and batches, draw the same for different purposes.

    Args:
        seed: 0 or above.
        purpose: in words.

    Returns:
        From 0 up to 2^63.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()),))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
