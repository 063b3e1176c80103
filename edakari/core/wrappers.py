"""Modules that stand around a network: which may be taken off, and which must be taken off by who put them on."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from edakari.core.modules import modules_of, parameters_of
from edakari.errors import ModelError

__all__ = ["check_parts", "check_whole", "inner"]


def inner(module: nn.Module) -> nn.Module | None:
    """The network inside of a wrapper that computes what the network does; None where a module is no such wrapper.

    Such are `torch.compile`, `DistributedDataParallel` and `DataParallel`. Averages of weights, say, are networks of
    their own.
    """
    compiled = _classes("torch._dynamo.eval_frame", "OptimizedModule")
    if compiled and isinstance(module, compiled):
        found: nn.Module = module._orig_mod
        return found
    if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
        wrapped: nn.Module = module.module
        return wrapped
    return None


def check_parts(model: nn.Module) -> None:
    """Refuse a network with parts whose weights or code edakari cannot see.

    Raises:
        ModelError: a module is a ScriptModule, the module of an exported program, or sharded by FSDP; says which, and
            what to hand in instead.
    """
    exported = _classes("torch.export._unlift", "_StatefulGraphModule")
    for path, module in modules_of(model):
        where = f"module {path!r} of {type(model).__name__}" if path else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{where} is a ScriptModule, whose code cannot be followed or cut. Hand in the network as it was "
                "before torch.jit.script or torch.jit.trace, and script what edakari returns."
            )
        if exported and isinstance(module, exported):
            raise ModelError(
                f"{where} is the module of an ExportedProgram, whose sizes are fixed. Hand in the network as it was "
                "before torch.export.export, and export what edakari returns."
            )
    check_whole(model)


def check_whole(model: nn.Module) -> None:
    """Refuse a network of which this process may hold only a part: sharded by FSDP or DeepSpeed, or tensor parallel.

    Raises:
        ModelError: says which part, and what to hand in instead.
    """
    sharding = _classes("torch.distributed.fsdp", "FullyShardedDataParallel", "FSDPModule")
    for path, module in modules_of(model) if sharding else ():
        if isinstance(module, sharding):
            where = f"module {path!r} of {type(model).__name__}" if path else "the network"
            raise ModelError(
                f"{where} is sharded by FSDP: this process holds only a part of its weights. Build the network without "
                "FSDP, load the full state dict (torch.distributed.checkpoint.state_dict.get_model_state_dict with "
                "full_state_dict=True), prune, and shard what edakari returns."
            )
    distributed = _classes("torch.distributed.tensor", "DTensor")
    for name, parameter in parameters_of(model).items():
        if distributed and isinstance(parameter, distributed):
            raise ModelError(
                f"parameter {name!r} of {type(model).__name__} is a DTensor: this process may hold only a part of it. "
                "Build the network without tensor parallelism, load the full weights, and hand in that."
            )
        if hasattr(parameter, "ds_status"):
            raise ModelError(
                f"parameter {name!r} of {type(model).__name__} is partitioned by DeepSpeed (ZeRO stage 3). Build the "
                "network outside of deepspeed.zero.Init, load the full weights, prune, and hand what edakari returns "
                "to DeepSpeed."
            )


def _classes(module: str, *names: str) -> tuple[type[Any], ...]:
    """Classes of a module that nobody may have imported: then no network is made of them."""
    loaded = sys.modules.get(module)
    found = (getattr(loaded, name, None) for name in names)
    return tuple(each for each in found if isinstance(each, type))
