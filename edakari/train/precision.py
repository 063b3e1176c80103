"""The precision that a training runs in, where the schedule leaves it to the hardware."""

from __future__ import annotations

import dataclasses as dc
import functools
import warnings
from pathlib import Path

import torch

from edakari.core.protocols import Schedule
from edakari.errors import EdakariWarning
from edakari.train.checkpoint import identity_in

__all__ = ["computes_bf16", "with_precision"]

INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
"""Of processors: what multiplies bf16 without going through fp32."""


def with_precision(schedule: Schedule, device: torch.device, checkpoint: Path | None) -> Schedule:
    """The schedule with a precision in place of "auto".

    A training that has begun keeps the precision that it began with, wherever it goes on: its result is to be the one
    that it would have had. Bf16 that the device does not compute is warned about.

    Args:
        schedule: as asked for.
        device: that trains.
        checkpoint: of the training, if there is one.
    """
    native = computes_bf16(device)
    if schedule.precision == "auto":
        begun = identity_in(checkpoint).get("schedule", {}).get("precision") if checkpoint is not None else None
        schedule = dc.replace(schedule, precision=begun or ("bf16" if native else "fp32"))
    if schedule.precision == "bf16" and device.type == "cpu" and not native:
        _warn_of_emulation()
    return schedule


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 by instructions of its own; others emulate it, at a multiple of fp32's time."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _processor_computes_bf16()


def _processor_computes_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in INSTRUCTIONS)
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


@functools.cache
def _warn_of_emulation() -> None:
    """Once per process, however many trainings there are."""
    warnings.warn(
        "precision 'bf16' on this processor, which has no instructions for it: training will take many times as long "
        "as in 'fp32' (15 times was measured). Set the precision to 'auto' or 'fp32'.",
        EdakariWarning,
        stacklevel=2,
    )
