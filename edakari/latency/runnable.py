"""Checks whether a runtime can run networks on this machine with given settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from edakari.errors import EdakariError, MeasurementError
from edakari.latency.runtime_protocols import RemoteRuntime, Runtime

if TYPE_CHECKING:
    from edakari.latency.timing import RunSettings

__all__ = ["faults", "require_runnable"]


def faults(runtime: Runtime, settings: RunSettings) -> Iterator[tuple[str, str]]:
    """Find what a runtime cannot do here: pairs of the setting, or "runtime" for the runtime itself, and the reason.

    Args:
        runtime: runtime that is to run networks.
        settings: settings of the runtime.
    """
    processors, here = os.cpu_count() or 1, not isinstance(runtime, RemoteRuntime)
    if here and not 0 <= settings.threads <= processors:
        yield (
            "threads",
            f"must be at most {processors}, as this machine has {processors} processors, or 0 for the runtime's own "
            f"choice, found {settings.threads}",
        )
    if settings.precision == "int8" and "int8" not in getattr(runtime, "precisions", ()):
        yield (
            "precision",
            f"is 'int8', in which the runtime {runtime.name!r} cannot run; use 'onnxruntime' or 'openvino'",
        )
    if here and torch.device(settings.device).type == "cuda" and not torch.cuda.is_available():
        yield "device", f"is {settings.device!r}, but PyTorch sees no CUDA device here; use 'cpu'"
    provider = getattr(runtime, "provider", "cpu")
    if settings.calls != "steady" and (torch.device(settings.device).type != "cpu" or provider != "cpu"):
        yield (
            "calls",
            f"is {settings.calls!r}, which uses the caches of a processor, but networks run on "
            f"{settings.device if provider == 'cpu' else provider!r}; use 'steady'",
        )
    try:
        runtime.check(settings)
    except EdakariError as error:
        yield "runtime", str(error)


def require_runnable(runtime: Runtime, settings: RunSettings) -> None:
    """Refuse settings with which a runtime cannot run here.

    Raises:
        MeasurementError: the runtime or a setting does not work here; lists all reasons.
    """
    found = [text if name == "runtime" else f"{name} {text}" for name, text in faults(runtime, settings)]
    if found:
        raise MeasurementError(f"cannot measure in {runtime.name}: {'; '.join(found)}")
