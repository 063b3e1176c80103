"""Whether a runtime can run networks here as asked, said before it is given one."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from edakari.errors import EdakariError, MeasurementError

if TYPE_CHECKING:
    from edakari.cost.measure import RunSettings, Runtime

__all__ = ["faults", "missing_packages", "require_packages", "require_runnable"]


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


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of some packages that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def require_packages(what: str, names: Sequence[str], install: str) -> None:
    """Refuse what needs packages that are not installed.

    Args:
        what: needs them, for the message.
        names: of the packages.
        install: arguments of pip.

    Raises:
        MeasurementError: says which are missing, and how to install them.
    """
    missing = missing_packages(names)
    if missing:
        raise MeasurementError(
            f"{what} is not installed ({', '.join(missing)}); install it with: pip install {install}"
        )
