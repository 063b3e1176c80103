"""The accelerator of a training, from the library accelerate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from edakari.core.optional import needs
from edakari.core.processes import time_limit
from edakari.core.protocols import Precision
from edakari.core.stand_ins import put_stand_in, take_stand_in_off
from edakari.errors import RecipeError

__all__ = ["device_here", "in_autocast", "nested_tensors", "new_accelerator", "require_fp16", "require_whole_networks"]


def nested_tensors() -> Any:
    """Return accelerate's operations on nested tensors, which have no type annotations."""
    from accelerate.utils import operations

    return operations


SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Environment variables by which `accelerate launch` asks for networks that are sharded among processes."""


def require_whole_networks() -> None:
    """Refuse processes that a launcher has started for sharded networks.

    Raises:
        RecipeError: says what to launch instead.
    """
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes"):
            raise RecipeError(
                f"the launcher asks for {name} ({variable}), which shards networks among processes, but each needs the "
                "whole network to prune it. Start with `accelerate launch --multi_gpu` or `torchrun`, and shard the "
                "pruned network when you train it on."
            )


def device_here(*, cpu: bool) -> torch.device:
    """Return the device that accelerate will train on.

    Raises:
        RecipeError: the launcher asks for networks that are sharded among processes.
    """
    require_whole_networks()
    with needs("train", "training"):
        # imported here and below, since most importers of this module do not train
        from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # PartialState's constructor has no annotations
    make: Any = PartialState
    device: torch.device = make(cpu=cpu, timeout=time_limit()).device
    return device


def new_accelerator(precision: Precision, *, cpu: bool) -> Any:
    """Make a new accelerator for a training; otherwise accelerate would reuse the settings of the first one.

    Args:
        precision: "fp32", "bf16" or "fp16".
        cpu: use no other device.

    Raises:
        RecipeError: fp16 needs a GPU, and there is none.
    """
    require_fp16(precision, cpu=cpu)
    from accelerate.accelerator import Accelerator

    return Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=cpu)


@contextlib.contextmanager
def in_autocast(model: nn.Module, accelerator: Any) -> Iterator[None]:
    """Context in which a network runs in the precision of an accelerator and gives float32.

    Only the network's own pass runs so, not what a metric computes from its outputs.

    Args:
        model: the network.
        accelerator: accelerator of a training.
    """
    if accelerator.mixed_precision == "no":
        yield
        return
    forward, whole = model.forward, nested_tensors().convert_to_fp32

    def call(*args: Any, **keywords: Any) -> Any:
        with accelerator.autocast():
            outputs = forward(*args, **keywords)
        return whole(outputs)

    before = put_stand_in(model, call)
    try:
        yield
    finally:
        take_stand_in_off(model, before=before)


def require_fp16(precision: Precision, *, cpu: bool) -> None:
    """Refuse fp16 where there is no GPU.

    Raises:
        RecipeError: the precision is fp16, and there is no GPU or it is not to be used.
    """
    if precision == "fp16" and (cpu or not torch.cuda.is_available()):
        raise RecipeError("schedule precision 'fp16' needs a GPU, and there is none here; use 'bf16' or 'fp32'")
