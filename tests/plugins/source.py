"""A source of data of one's own: dark images and bright ones."""

import numpy as np

from edakari.tasks.sources import Arrays


def halves(argument):
    def split(count, seed):
        labels = np.arange(count) % 2
        images = np.random.default_rng(seed).integers(0, 100, (count, 28, 28, 1)) + 100 * labels[:, None, None, None]
        return Arrays(images.astype(np.uint8), labels.astype(np.int64), ("dark", "bright"))

    return split(32, 0), split(16, 1)
