"""Calibration: compares measured latencies of sub-networks with the predictions of the table, and fits these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.budget import Limits
from edakari.core.protocols import Cost
from edakari.core.space import Group, Sizes, legal_sizes
from edakari.errors import MeasurementError
from edakari.latency.predicted import PredictedLatency
from edakari.latency.table import Fit
from edakari.solve.threshold import Threshold
from edakari.solve.values import values_of

__all__ = ["FEWEST", "chosen_sizes", "correction", "fit_latency", "left_out", "random_sizes"]

Floats = npt.NDArray[np.float64]


FEWEST = 4
"""Fewest networks that are worth a fit when one is left out."""
BELIEF, FREE_WEIGHTS = 0.1, 0.2
"""Weights of the beliefs that the scale is 1 and that weights add no time, relative to one measured network.
They decide if all networks are alike."""


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


def chosen_sizes(groups: Sequence[Group], cost: Cost, count: int, seed: int = 0) -> list[dict[str, int]]:
    """Return sizes that a solver chooses by random scores, from small networks to large ones.

    Args:
        groups: groups that may be pruned, with their legal sizes.
        cost: predicted latency.
        count: number of sub-networks. Their costs divide the range of what is possible evenly.
        seed: seed of the scores; equal seeds give equal sizes.
    """
    rng = np.random.default_rng(seed)
    least, most = cost.total({group.name: min(legal_sizes(group)) for group in groups}), cost.total({})
    found = []
    for limit in np.linspace(least, most, count + 2)[1:-1]:
        logs = {group.name: rng.normal() + 0.5 * rng.normal(size=group.size) for group in groups}
        scores = {name: torch.from_numpy(np.exp(each)) for name, each in logs.items()}
        found.append(dict(Threshold().allocate(groups, values_of(scores), Limits(((cost, float(limit)),)))))
    return found


def fit_latency(cost: PredictedLatency, sizes: Sequence[Sizes], measured_ms: Sequence[float]) -> Fit:
    """Fit a network's latency; report how well predictions do for networks left out of the fit.

    Args:
        cost: predicted latency of the network, not fitted to weights; with any constant and scale.
        sizes: sizes of each network.
        measured_ms: latency of each network, ms.

    Raises:
        MeasurementError: there are too few networks.
    """
    if len(sizes) < FEWEST:
        raise MeasurementError(f"calibrating takes at least {FEWEST} networks, but got {len(sizes)}")
    known, measured = _known(cost, sizes), np.array(measured_ms)
    constant, scale, weights = _solved(known, measured).tolist()
    predicted = _left_out(known, measured)
    errors = np.abs(predicted / measured - 1.0)
    return Fit(
        constant,
        scale,
        len(sizes),
        float(np.median(errors)),
        float(errors.max()),
        _spearman(predicted, measured),
        weights,
    )


def left_out(cost: PredictedLatency, sizes: Sequence[Sizes], measured_ms: Sequence[float]) -> Floats:
    """Predict each network's latency by a fit to all the others, ms; for the arguments see `fit_latency`."""
    return _left_out(_known(cost, sizes), np.array(measured_ms))


def correction(predicted_ms: float, measured_ms: float) -> float:
    """Factor for the target: if the predictions err in the same way again, the measurement meets the target."""
    return predicted_ms / measured_ms


def _known(cost: PredictedLatency, sizes: Sequence[Sizes]) -> Floats:
    """What the latency is a sum of: 1, the time of all layers in ms, and millions of weights; [networks, 3]."""
    return np.array([[1.0, (cost.predict(each) - cost.constant) / cost.scale, cost.weights(each)] for each in sizes])


def _solved(known: Floats, measured: Floats) -> Floats:
    """Minimise the squared relative errors; return constant, scale, and ms per million weights."""
    rows = known / measured[:, None]
    prior = np.diag([0.0, BELIEF, FREE_WEIGHTS * (known[:, 2] / known[:, 1]).mean()])
    wanted = np.concatenate([np.ones(len(measured)), prior @ [0.0, 1.0, 0.0]])
    found: Floats = np.linalg.lstsq(np.vstack([rows, prior]), wanted, rcond=None)[0]
    if found[2] < 0 or not known[:, 2].any():  # more weights save no time
        some = np.linalg.lstsq(np.vstack([rows, prior])[:, :2], wanted, rcond=None)[0]
        found = np.array([*some, 0.0])
    if found[1] <= 0:  # the differences are noise only
        return np.array([0.0, np.median(measured / known[:, 1]), 0.0])
    return found


def _left_out(known: Floats, measured: Floats) -> Floats:
    others = [np.arange(len(measured)) != index for index in range(len(measured))]
    return np.array([row @ _solved(known[rest], measured[rest]) for row, rest in zip(known, others, strict=True)])


def _spearman(first: Floats, second: Floats) -> float:
    ranks = np.stack([np.argsort(np.argsort(values)) for values in (first, second)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    return float((centred[0] @ centred[1]) / np.sqrt((centred**2).sum(axis=1).prod()))
