"""Independent seeds for several purposes, derived from one seed."""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["derived_seed"]


def derived_seed(seed: int, purpose: str) -> int:
    """Derive a seed for one purpose, the same every time and on every machine.

    NumPy's generators with the seeds `0`, `(0, 0)` and `(0, 0, 0)` draw the same numbers. So plain seeds, combined with
    indices of epochs and batches, could repeat random numbers for different purposes.

    Args:
        seed: the seed, 0 or above.
        purpose: text that identifies the purpose.

    Returns:
        A seed from 0 to 2^63 - 1.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()),))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
