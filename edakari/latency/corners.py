"""Result of a run about int8: accuracy and latency of the dense and the finished network in fp32 and int8."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import ClassVar

from edakari.core.settings import NonNegative, Whole
from edakari.latency.timing import Timing

__all__ = ["Corner", "QuantizeResult"]


@dc.dataclass(frozen=True, kw_only=True)
class Corner:
    """The dense or the finished network in fp32 or int8.

    Args:
        network: "dense" or "pruned".
        precision: "fp32" or "int8".
        metrics: metrics by name; empty if the task gives none, or none of a network in int8.
        latency: latency of one call; all corners are timed alternately.
        bytes: size of the ONNX file, bytes.
    """

    network: str
    precision: str
    metrics: Mapping[str, float]
    latency: Timing
    bytes: Whole


@dc.dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """Both networks in fp32 and int8.

    Args:
        corners: the four networks; empty if nothing was quantised.
        metric: name of the main metric; empty if there is none.
        runtime: runtime in which they were timed.
        images: number of calls that calibrated the ranges of activations.
        file: path of the finished network in int8 in the run folder; empty without a folder.
        difference: root of the mean squared difference of its outputs in fp32 and int8 on the calibration data, as a
            fraction of that of the outputs.
        agreement: fraction of the calibration data to which both give the same class; None if outputs are no classes.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "quantize"
    corners: tuple[Corner, ...] = ()
    metric: str = ""
    runtime: str = ""
    images: Whole = 0
    file: str = ""
    difference: NonNegative = 0.0
    agreement: NonNegative | None = None
    seconds: NonNegative = 0.0
