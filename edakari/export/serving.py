"""The part of a network that a runtime serves: of a detector, all but its post-processing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from edakari.core.copying import copied_as_is

__all__ = ["served"]


def served(model: nn.Module) -> nn.Module:
    """Return the part of a network that is exported and timed.

    The network is cut off before the post-processing of one-stage detectors of torchvision (SSD, RetinaNet, FCOS), and
    gives what their heads give. How many boxes there are to suppress depends on the image, so a time that includes the
    suppression says little, and torch's exporter cannot export it.

    Returns:
        A network that shares the given one's tensors; the network itself if it has no such post-processing.
    """
    if next(_detectors(model), None) is None:
        return model
    copy = copied_as_is(model)
    for detector in _detectors(copy):
        detector.postprocess_detections = _heads
        detector.transform.postprocess = _unchanged
    return copy


def _detectors(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if hasattr(module, "postprocess_detections") and hasattr(getattr(module, "transform", None), "postprocess"):
            yield module


def _heads(outputs: Any, *_: Any) -> list[Any]:
    """What the heads give, in the form of a list of detections."""
    return [outputs]


def _unchanged(found: Any, *_: Any) -> Any:
    return found
