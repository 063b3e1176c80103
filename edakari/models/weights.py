"""Weights from safetensors files, checked against the network before loading."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edakari.core.file_errors import file_errors
from edakari.errors import WeightsError
from edakari.models.prefixes import wrapper_prefix

__all__ = ["check_fit", "load_weights", "read_weights", "weights_digest"]

SHOWN = 4


@file_errors()
def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file to the CPU.

    Raises:
        WeightsError: the file does not exist, is damaged, or has another format.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        name = path.name.partition(".")[0] or "weights"
        raise WeightsError(
            f"weights {str(path)!r}: only .safetensors files are read, never pickles; `edakari convert {path} "
            f"{path.with_name(name)}.safetensors` converts it, and runs no code from the file"
        )
    if not path.is_file():
        raise WeightsError(
            f"weights {str(path)!r}: there is no such file; `edakari convert` makes one from a checkpoint"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights {str(path)!r} cannot be read ({error}); was the file cut short?") from error


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Load weights into a network in place, all of them or none.

    Args:
        model: the network.
        weights: a tensor for each name in its state dict.
        source: source of the weights, for the message.

    Raises:
        WeightsError: names or shapes differ; the message lists the first few.
    """
    check_fit(model.state_dict(), weights, source)
    model.load_state_dict(dict(weights))


def check_fit(wanted: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise an error for weights that do not fit a network.

    Args:
        wanted: the network's state dict.
        weights: a tensor for each of its names.
        source: source of the weights, for the message.

    Raises:
        WeightsError: names or shapes differ; the message lists the first few and says what to do.
    """
    missing = [f"{name} {list(wanted[name].shape)}" for name in wanted if name not in weights]
    unexpected = [f"{name} {list(weights[name].shape)}" for name in weights if name not in wanted]
    differing = [
        f"{name} is {list(weights[name].shape)} in the file and {list(tensor.shape)} in the network"
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems = []
    for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", differing)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            problems.append(f"{len(names)} {word}: {', '.join(names[:SHOWN])}{more}")
    if problems:
        raise WeightsError(f"weights {source} do not fit the network; {'; '.join(problems)}. {_hint(wanted, weights)}")


def _hint(wanted: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> str:
    """Advice for weights that do not fit."""
    prefix = wrapper_prefix(weights, wanted)
    if prefix:
        return f"Names in the file begin with the prefix {prefix!r}: `edakari convert FILE NEW.safetensors` removes it"
    prefix = wrapper_prefix(wanted, weights)
    if prefix:
        return (
            f"The network's names begin with the prefix {prefix!r}, which the file's names lack: "
            "use the network inside it"
        )
    return (
        "Were the weights trained with this network and this number of classes? "
        "`edakari convert FILE NEW.safetensors --model NAME` removes prefixes and compares"
    )


def weights_digest(model: nn.Module) -> str:
    """Compute the SHA-256 of the names and values of the parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
