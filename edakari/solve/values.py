"""From scores to what solvers ask for, and from sizes back to channels."""

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
    """Value of keeping the k best channels of each group: the sum of their scores.

    A value must not fall when more is kept. Where a group has a negative score, all of its scores are therefore
    raised by the same amount, so that its worst channel is worth 0; groups without one are taken as they are.

    Args:
        scores: score of each channel, float [size], by group.

    Returns:
        float64 [size + 1] by group; entry 0 is 0, entry k the sum of the k largest scores.

    Raises:
        EdakariError: a score is not finite.
    """
    values = {}
    for name, score in scores.items():
        falling = np.sort(score.double().cpu().numpy())[::-1]
        if not np.isfinite(falling).all():
            raise EdakariError(
                f"group {name!r} has a score that is not finite (NaN or infinite), so that it cannot be ranked; check "
                "the network's weights and outputs, and the data that it was scored on"
            )
        raised = falling - min(float(falling[-1]), 0.0)
        values[name] = np.concatenate([[0.0], np.cumsum(raised)])
    return values


def keep_best(scores: Scores, sizes: Sizes) -> tuple[KeepChannels, ...]:
    """The channels of highest score in each group that is cut.

    Args:
        scores: score of each channel, float [size], by group.
        sizes: how many to keep, by group; groups at their dense size get no edit.

    Returns:
        One edit per group that is cut, its indices rising; of equal scores the lower index is kept.

    Raises:
        EdakariError: a group has no scores.
    """
    edits = []
    for name, size in sizes.items():
        if name not in scores:
            raise EdakariError(f"group {name!r} is to be sized but has no scores; score every group that may be cut")
        if size < len(scores[name]):
            order = np.argsort(-scores[name].double().cpu().numpy(), kind="stable")
            edits.append(KeepChannels(name, tuple(np.sort(order[:size]).tolist())))
    return tuple(edits)
