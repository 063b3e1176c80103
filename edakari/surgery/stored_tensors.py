"""Tensors and masks of a network in the files of its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import nn

from edakari.core.files import replacing
from edakari.core.plan import MaskWeights, Plan
from edakari.errors import PlanError, WeightsError

__all__ = ["MASKS", "cast", "file_digest", "tensors_of", "with_bits", "write_bits", "write_tensors"]

MASKS = "masks.safetensors"


def write_bits(folder: Path, plans: Iterable[Plan]) -> None:
    """Write the masks of plans as packed bits by their digests; without masks there is no file.

    Raises:
        PlanError: a plan comes without its bits.
    """
    found = {mask.digest: mask.bits for plan in plans for mask in plan.packed_masks().values()}
    if not found:
        (folder / MASKS).unlink(missing_ok=True)  # of the network that was here before
        return
    with replacing(folder / MASKS) as temporary:
        save_arrays({digest: np.frombuffer(bits, dtype=np.uint8) for digest, bits in found.items()}, temporary)


def with_bits(plan: Plan, folder: Path) -> Plan:
    """Add the masks in a folder to a plan that was read from JSON.

    Raises:
        PlanError: the plan masks weights, and the file of masks is missing, damaged or of another plan.
    """
    edits = [edit for edit in plan.edits if isinstance(edit, MaskWeights)]
    path = folder / MASKS
    if not edits:
        return plan
    if not path.is_file():
        raise PlanError(
            f"the plan in {folder} masks weights of {len(edits)} parameters, but {path.name} is missing, which says "
            "which; copy it along with the plan"
        )
    try:
        arrays = load_arrays(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise PlanError(f"{path} is damaged: {error}") from None
    bits = {}
    for edit in edits:
        if edit.digest not in arrays:
            raise PlanError(f"{path} holds no mask of {edit.parameter!r} as the plan names it; is it of another plan?")
        bits[edit.digest] = arrays[edit.digest].tobytes()
    found = Plan(plan.edits, plan.fingerprint, plan.inputs, plan.method, plan.version, bits)
    try:
        found.packed_masks()
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    return found


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict of a network as tensors that a file can hold."""
    tensors = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(f"the state of the network has a {type(value).__name__} at {name!r}, not a tensor")
        if value.is_meta or value.is_quantized or value.layout != torch.strided:
            what = "has no values (meta)" if value.is_meta else f"is of type {value.dtype} and layout {value.layout}"
            raise WeightsError(f"{name} {what}, which a safetensors file cannot hold")
        tensors[name] = value.detach().cpu().contiguous().clone()
    return tensors


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors to a safetensors file."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (KeyError, ValueError, TypeError) as error:
        types = ", ".join(sorted({str(value.dtype) for value in tensors.values()}))
        raise WeightsError(f"the network's tensors ({types}) cannot be stored: {error}") from error


def cast(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Cast a network's tensors to the stored types, in place; tied tensors stay tied."""
    for path, module in model.named_modules():
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            stored = weights.get(f"{path}.{name}" if path else name)
            if value is not None and stored is not None and value.dtype != stored.dtype:
                value.data = value.data.to(stored.dtype)


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
