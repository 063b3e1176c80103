"""Calibration: compares measured latencies of random sub-networks with the predictions of the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.space import Group, Sizes, legal_sizes
from edakari.errors import MeasurementError
from edakari.latency.predicted import PredictedLatency
from edakari.latency.table import Fit

__all__ = ["FEWEST", "correction", "fit_latency", "left_out", "random_sizes"]

Floats = npt.NDArray[np.float64]


FEWEST = 4
"""Fewest sub-networks that determine constant and scale when one is left out."""
BELIEF = 0.1
"""Weight of the prior that the scale is 1, relative to one measured network; it matters if all networks are alike."""


def random_sizes(
    groups: Sequence[Group], count: int, keep_ratios: tuple[float, float] = (0.3, 1.0), seed: int = 0
) -> list[dict[str, int]]:
    """Draw sizes of random sub-networks, from small to large ones.

    Args:
        groups: groups that may be pruned, with their legal sizes.
        count: number of sub-networks.
        keep_ratios: range of the mean fraction of channels that a network keeps. Each group's fraction lies
            within 0.2 of it.
        seed: seed of the draw; equal seeds give equal sizes.
    """
    rng = np.random.default_rng(seed)
    low, high = keep_ratios
    found = []
    for mean in rng.permutation(np.linspace(low, high, count)):
        sizes = {}
        for group in groups:
            fraction = np.clip(mean + rng.uniform(-0.2, 0.2), low, 1.0)
            legal = np.array(legal_sizes(group))
            sizes[group.name] = int(legal[np.abs(legal - fraction * group.size).argmin()])
        found.append(sizes)
    return found


def fit_latency(cost: PredictedLatency, sizes: Sequence[Sizes], measured_ms: Sequence[float]) -> Fit:
    """Fit constant and scale of a network's latency; report how well they predict networks left out of the fit.

    Args:
        cost: predicted latency of the network, with any constant and scale.
        sizes: sizes of each sub-network.
        measured_ms: latency of each sub-network, ms.

    Raises:
        MeasurementError: there are too few sub-networks.
    """
    if len(sizes) < FEWEST:
        raise MeasurementError(f"calibrating takes at least {FEWEST} sub-networks, but got {len(sizes)}")
    layers = np.array([(cost.predict(each) - cost.constant) / cost.scale for each in sizes])
    measured = np.array(measured_ms)
    constant, scale = _solved(layers, measured)
    predicted = _left_out(layers, measured)
    errors = np.abs(predicted / measured - 1.0)
    return Fit(
        constant, scale, len(sizes), float(np.median(errors)), float(errors.max()), _spearman(predicted, measured)
    )


def left_out(cost: PredictedLatency, sizes: Sequence[Sizes], measured_ms: Sequence[float]) -> Floats:
    """Predict each sub-network's latency by a fit to all the others, ms; for the arguments see `fit_latency`."""
    layers = np.array([(cost.predict(each) - cost.constant) / cost.scale for each in sizes])
    return _left_out(layers, np.array(measured_ms))


def correction(predicted_ms: float, measured_ms: float) -> float:
    """Factor for the target: if the predictions err in the same way again, the measurement meets the target."""
    return predicted_ms / measured_ms


def _solved(layers: Floats, measured: Floats) -> tuple[float, float]:
    """Minimise the squared relative errors; return constant and scale."""
    rows = np.stack([1.0 / measured, layers / measured], axis=1)
    rows = np.vstack([rows, [0.0, BELIEF]])
    constant, scale = np.linalg.lstsq(rows, np.append(np.ones(len(measured)), BELIEF), rcond=None)[0]
    if scale <= 0:  # the differences are noise only
        return 0.0, float(np.median(measured / layers))
    return float(constant), float(scale)


def _left_out(layers: Floats, measured: Floats) -> Floats:
    predicted = np.empty_like(measured)
    for index in range(len(measured)):
        others = np.arange(len(measured)) != index
        constant, scale = _solved(layers[others], measured[others])
        predicted[index] = constant + scale * layers[index]
    return predicted


def _spearman(first: Floats, second: Floats) -> float:
    ranks = np.stack([np.argsort(np.argsort(values)) for values in (first, second)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    return float((centred[0] @ centred[1]) / np.sqrt((centred**2).sum(axis=1).prod()))
