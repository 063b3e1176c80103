"""Whether a runtime can run networks here as asked, said before it is given one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from edakari.errors import EdakariError, MeasurementError

if TYPE_CHECKING:
    from edakari.latency.timing import RunSettings, Runtime

__all__ = ["faults", "require_runnable"]


def faults(runtime: Runtime, settings: RunSettings) -> Iterator[tuple[str, str]]:
    """What a runtime cannot do here: the setting that asks for it, "runtime" for the runtime itself, and why.

    Args:
        runtime: that is to run networks.
        settings: how.
    """
    processors = os.cpu_count() or 1
    if not 0 <= settings.threads <= processors:
        yield (
            "threads",
            f"must be at most {processors}, as this machine has {processors} processors, or 0 for the runtime's own "
            f"choice, found {settings.threads}",
        )
    if torch.device(settings.device).type == "cuda" and not torch.cuda.is_available():
        yield "device", f"is {settings.device!r}, but PyTorch sees no CUDA device here; use 'cpu'"
    try:
        runtime.check(settings)
    except EdakariError as error:
        yield "runtime", str(error)


def require_runnable(runtime: Runtime, settings: RunSettings) -> None:
    """Refuse what a runtime cannot do here.

    Raises:
        MeasurementError: lists all of it.
    """
    found = [text if name == "runtime" else f"{name} {text}" for name, text in faults(runtime, settings)]
    if found:
        raise MeasurementError(f"cannot measure in {runtime.name}: {'; '.join(found)}")
