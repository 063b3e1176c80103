"""The layers whose quantisation to int8 changes a network's outputs most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edakari.export.int8 import Feeds, Quantizer, quantized, weighted_modules
from edakari.export.onnx_model import open_onnx

__all__ = ["layer_errors", "output_difference"]

INPUTS = 16
"""Number of inputs that determine the error of a layer."""


def layer_errors(
    model: bytes, inputs: Sequence[Feeds], exclude: Sequence[str] = (), quantizer: Quantizer = quantized
) -> dict[str, float]:
    """Quantise one layer at a time, and return the difference of the outputs that it causes, the largest first.

    Args:
        model: content of an ONNX file.
        inputs: calibration data; the first `INPUTS` of them count.
        exclude: modules that stay in fp32 anyway; see `edakari.export.int8.QuantizeSettings`.
        quantizer: function that quantises the model.

    Returns:
        By the path of each module with weights, the root of the mean squared difference, as a fraction of that of the
        outputs.
    """
    some = inputs[:INPUTS]
    modules = weighted_modules(model, exclude)
    found = {path: output_difference(model, quantizer(model, some, only=path), some) for path in modules}
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def output_difference(model: bytes, other: bytes, inputs: Sequence[Feeds]) -> float:
    """Root of the mean squared difference of two ONNX models' outputs, as a fraction of that of the first one's."""
    first, second = open_onnx(model), open_onnx(other)
    error = scale = 0.0
    for feeds in inputs:
        for ours, theirs in zip(_outputs(first, feeds), _outputs(second, feeds), strict=True):
            error += float(np.square(ours - theirs).sum())
            scale += float(np.square(ours).sum())
    return float(np.sqrt(error / max(scale, 1e-30)))


def _outputs(session: Any, feeds: Feeds) -> list[Any]:
    found = session.run(None, {each.name: feeds[each.name] for each in session.get_inputs()})
    return [np.asarray(value, np.float64) for value in found]
