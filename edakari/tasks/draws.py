"""Random numbers of an image that depend on nothing but seeds and the index of the image.

So an image is augmented alike in any batch, by any worker and on any process. The generator is SplitMix64 (Steele, Lea
and Flood, 2014): its n-th number follows from a key and n, without those before, and for many images at once.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["DRAWS", "Draws", "draws_of", "key_of", "seeded"]

Draws = npt.NDArray[np.float64]
"""Uniform numbers from 0 to 1, without 1: [DRAWS] of an image, or [N, DRAWS]."""
DRAWS = 32
"""Numbers of each view of an image, each with a use of its own: it does not change when others are not needed."""
GAMMA = 0x9E3779B97F4A7C15


def key_of(*seeds: int) -> int:
    """Return a key of 64 bits of several seeds, such as those of a training and an epoch."""
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])


def draws_of(key: int, indices: Sequence[int] | npt.NDArray[np.int64], views: int = 1) -> list[Draws]:
    """Return the numbers of some images.

    Args:
        key: key of the pass over the data; see `key_of`.
        indices: index of each image, int64 [N].
        views: number of views of each image.

    Returns:
        For each view, float64 [N, DRAWS]. A view has the same numbers, however many follow.
    """
    images = _mixed(np.uint64(key) ^ _mixed(np.asarray(indices, np.int64).astype(np.uint64)))
    numbers = splitmix(images[:, None], np.arange(1, views * DRAWS + 1, dtype=np.uint64))
    return np.split((numbers >> np.uint64(11)) * 2.0**-53, views, axis=1)


def splitmix(state: npt.NDArray[np.uint64], number: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return numbers of SplitMix64, uint64.

    Args:
        state: the state at the start.
        number: 1 for the first number after that, and so on.
    """
    return _mixed(state + number * np.uint64(GAMMA))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@contextlib.contextmanager
def seeded(seeds: Sequence[int]) -> Iterator[None]:
    """Context with random states that depend only on the seeds; transforms of others use all three generators."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
