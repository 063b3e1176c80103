"""Conversions from scores to the values of sizes, and from sizes to the channels that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edakari.core.plan import KeepChannels
from edakari.errors import EdakariError

if TYPE_CHECKING:
    from edakari.core.protocols import Values
    from edakari.core.space import Scores, Sizes

__all__ = ["keep_best", "scarce", "values_of"]


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


def scarce(values: Values, power: float) -> Values:
    """Return values that make a channel worth more, the fewer channels of its group are kept.

    First-order scores add up, but the loss rises faster the fewer channels are left. If a layer before a batch
    normalisation loses the fraction f of its input, for example, its ratio of error to signal is f / (1 - f). The best
    channels, up to each one, have a fraction of their group's value. Each channel's value is divided by a power of
    this fraction. The first channel that is removed therefore keeps its own value.

    Args:
        values: value of each size, float [size + 1] by group, with entry 0 at 0; falling increments remain falling.
        power: 0 leaves the values; 2 lets them follow the ratio of error to signal.

    Returns:
        float64 [size + 1] by group.
    """
    if not power:
        return values
    return {name: _scarce(np.asarray(value, dtype=np.float64), power) for name, value in values.items()}


def _scarce(value: npt.NDArray[np.float64], power: float) -> npt.NDArray[np.float64]:
    if not value[-1] > 0:
        return value
    # falling increments never have less than their part of the channels; others could begin with a fraction of 0
    kept = np.maximum(value[1:] / value[-1], np.arange(1, len(value)) / (len(value) - 1))
    return np.concatenate([[0.0], np.cumsum(np.diff(value) * kept**-power)])


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
