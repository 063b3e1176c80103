"""The precision of a training whose schedule says "auto"."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from edakari.core.protocols import Schedule
from edakari.errors import EdakariWarning
from edakari.train.checkpoint import identity_in

__all__ = ["computes_bf16", "in_tf32", "with_precision"]

INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
"""Instruction sets of processors that multiply bf16 natively."""


def with_precision(schedule: Schedule, device: torch.device, checkpoint: Path | None) -> Schedule:
    """Replace the precision "auto" of a schedule.

    A resumed training keeps its first precision, so that its result is the same as without the interruption. A warning
    tells the user if the device only emulates bf16.

    Args:
        schedule: the schedule as the user gave it.
        device: device of the training.
        checkpoint: path of the training's checkpoint, or None.
    """
    native = computes_bf16(device)
    if schedule.precision == "auto":
        begun = identity_in(checkpoint).get("schedule", {}).get("precision") if checkpoint is not None else None
        schedule = dc.replace(schedule, precision=begun or ("bf16" if native else "fp32"))
    if schedule.precision == "bf16" and device.type == "cpu" and not native:
        _warn_of_emulation()
    return schedule


@contextlib.contextmanager
def in_tf32(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """Context in which matrix products of float32 use TF32 on a GPU, as its convolutions do; restored at the end.

    Args:
        device: device of the training; only CUDA has TF32.
        wanted: whether to use it; False computes in float32.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 natively; others emulate it and take several times as long as fp32."""
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
    """Warn once per process, for any number of trainings."""
    warnings.warn(
        "precision 'bf16' on this processor, which has no instructions for it: training will take many times as long "
        "as in 'fp32' (15 times was measured). Set the precision to 'auto' or 'fp32'.",
        EdakariWarning,
        stacklevel=2,
    )
