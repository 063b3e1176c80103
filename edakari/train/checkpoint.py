"""Training checkpoints as one safetensors file: tensors in its body, everything else as JSON in its header."""

from __future__ import annotations

import dataclasses as dc
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edakari.core.files import json_text, replacing
from edakari.core.reading import because
from edakari.errors import RunFolderError, WrongArgument

__all__ = ["Checkpoint", "identity_in", "pack", "read", "unpack", "write"]

FORMAT = "edakari.fit/1"


@dc.dataclass(frozen=True)
class Checkpoint:
    """State of a training after some steps.

    Args:
        identity: values that identify the training; only this training can resume from the checkpoint.
        step: number of completed optimizer steps.
        done: whether the training is finished.
        state: tensors, numbers and strings in nested dicts and lists.
    """

    identity: Mapping[str, Any]
    step: int
    done: bool
    state: Mapping[str, Any]


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: the earlier one stays until the new one is complete.

    Raises:
        RunFolderError: the disk is full.
    """
    tree, tensors = pack(checkpoint.state)
    header = {"identity": checkpoint.identity, "step": checkpoint.step, "done": checkpoint.done, "state": tree}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": FORMAT, "content": json_text(header, str(path))})


def read(path: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Read the checkpoint in a file; None if there is no file.

    Args:
        path: the file.
        identity: identity of the training to resume.

    Raises:
        RunFolderError: the checkpoint is damaged or belongs to another training; the message says what differs.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads(file.metadata()["content"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        state = unpack(header["state"], tensors)
        found = Checkpoint(header["identity"], int(header["step"]), bool(header["done"]), state)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"checkpoint {path} cannot be read ({because(error)}); delete it to train from the start"
        ) from error
    differing = _differences(found.identity, json.loads(json.dumps(identity)))
    if differing:
        raise RunFolderError(
            f"checkpoint {path} belongs to another training: {'; '.join(differing[:4])}. "
            "Choose another folder, or delete the checkpoint to train from the start"
        )
    return found


def identity_in(path: Path) -> Mapping[str, Any]:
    """Read the identity of a checkpoint's training; empty if there is no readable checkpoint."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            found = json.loads(file.metadata()["content"])["identity"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def pack(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Split nested state into JSON and the tensors that it names.

    Args:
        state: tensors, arrays, numbers, strings and None in dicts, lists and tuples.

    Raises:
        WrongArgument: the state contains another type.
    """
    tensors: dict[str, torch.Tensor] = {}

    def visit(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor | np.ndarray):
            kind = "tensor" if isinstance(value, torch.Tensor) else "array"
            # Copies: safetensors refuses tied tensors, and a view would store its full storage.
            tensors[path] = torch.as_tensor(value).detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"": kind, "name": path}
        if isinstance(value, Mapping):
            return {"": "dict", "items": [[key, visit(entry, f"{path}.{key}")] for key, entry in value.items()]}
        if isinstance(value, list | tuple):
            entries = [visit(entry, f"{path}.{index}") for index, entry in enumerate(value)]
            return entries if isinstance(value, list) else {"": "tuple", "items": entries}
        if isinstance(value, np.integer | np.floating | np.bool_):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {"": "float", "value": str(value)}  # JSON has no such numbers
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise WrongArgument(
            f"state {path!r} is a {type(value).__name__}; a checkpoint holds only tensors, numbers and strings"
        )

    return visit(state, "state"), tensors


def unpack(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `pack`."""
    match tree:
        case {"": "tensor", "name": name}:
            return tensors[name]
        case {"": "array", "name": name}:
            return tensors[name].numpy()
        case {"": "float", "value": value}:
            return float(value)
        case {"": "dict", "items": items}:
            return {key: unpack(entry, tensors) for key, entry in items}
        case {"": "tuple", "items": items}:
            return tuple(unpack(entry, tensors) for entry in items)
        case list(items):
            return [unpack(entry, tensors) for entry in items]
    return tree


def _differences(there: Any, here: Any, path: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [*there, *(key for key in here if key not in there)]
        found = [_differences(there.get(key), here.get(key), f"{path}.{key}" if path else key) for key in keys]
        return [line for lines in found for line in lines]
    return [] if there == here else [f"{path} is {there!r} there and {here!r} here"]
