"""Conversions from scores to the values of sizes, and from sizes to the channels that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edakari.core.plan import KeepChannels
from edakari.errors import EdakariError

if TYPE_CHECKING:
    from edakari.core.protocols import Values
    from edakari.core.space import Scores, Sizes

__all__ = ["keep_best", "values_of"]


def values_of(scores: Scores) -> Values:
    """Return the value of keeping the k best channels of each group: the sum of their scores.

    Values must not fall with the size. If a group has negative scores, all of its scores are therefore raised by the
    same amount, so that its lowest score is 0.

    Args:
        scores: score of each channel, float [size], by group.

    Returns:
        float64 [size + 1] by group; entry 0 is 0, and entry k is the sum of the k largest scores.

    Raises:
        EdakariError: a score is not finite.
    """
    values = {}
    for name, score in scores.items():
        falling = np.sort(score.double().cpu().numpy())[::-1]
        if not np.isfinite(falling).all():
            raise EdakariError(
                f"group {name!r} has a score that is not finite (NaN or infinite), so it cannot be ranked; check "
                "the network's weights and outputs, and the data from which scores were computed"
            )
        raised = falling - min(float(falling[-1]), 0.0)
        values[name] = np.concatenate([[0.0], np.cumsum(raised)])
    return values


def keep_best(scores: Scores, sizes: Sizes) -> tuple[KeepChannels, ...]:
    """Keep the channels of highest score in each group.

    Args:
        scores: score of each channel, float [size], by group.
        sizes: number of channels to keep, by group.

    Returns:
        One edit per group that is cut, with increasing indices; of equal scores, the lower index is kept.

    Raises:
        EdakariError: a group has no scores.
    """
    edits = []
    for name, size in sizes.items():
        if name not in scores:
            raise EdakariError(f"group {name!r} has no scores; score every group that may be cut")
        if size < len(scores[name]):
            order = np.argsort(-scores[name].double().cpu().numpy(), kind="stable")
            edits.append(KeepChannels(name, tuple(np.sort(order[:size]).tolist())))
    return tuple(edits)
