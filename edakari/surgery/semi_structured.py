"""Linear layers with a 2:4 pattern in torch's semi-structured sparse format, which NVIDIA's GPUs multiply faster."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.networks import unwrapped
from edakari.core.weight_masks import require_parameter
from edakari.errors import ModelError, PlanError

__all__ = ["to_semi_structured"]

CALL = "to_semi_structured(model)"


def to_semi_structured(model: nn.Module, names: Iterable[str] | None = None) -> nn.Module:
    """Copy a network, with the weights of linear layers in torch's semi-structured sparse format.

    The copy is for inference on an NVIDIA GPU of compute capability 8.0 or above, in float16 or bfloat16. Torch has no
    such format for convolutions. This function was not run on a GPU by edakari's tests.

    Args:
        model: the network, with 2:4 patterns, as `WeightMasks.two_of_four` makes them; it does not change.
        names: weights of linear layers to store so; None takes all of them that have a 2:4 pattern.

    Raises:
        PlanError: a weight is not that of a linear layer, or has no 2:4 pattern; or there is no such weight.
        ModelError: torch cannot store a weight so, for example on the CPU; the message gives torch's words.
    """
    network = unwrapped(model, CALL)
    linear = {f"{path}.weight" if path else "weight": path for path, part in network.named_modules() if _linear(part)}
    chosen = [name for name in linear if _in_pattern(network.get_parameter(name))] if names is None else list(names)
    for name in chosen:
        require_parameter(name, (found for found, _ in network.named_parameters(remove_duplicate=False)))
        if name not in linear or not _in_pattern(network.get_parameter(name)):
            why = (
                "has more than two weights in a row of four"
                if name in linear
                else "is not the weight of a linear layer"
            )
            raise PlanError(f"{CALL}: {name!r} {why}; mask it by WeightMasks.two_of_four first, or leave it out")
    if not chosen:
        raise PlanError(f"{CALL}: no linear layer has a 2:4 pattern; mask some by WeightMasks.two_of_four first")
    made = copied(network).eval().requires_grad_(False)
    for name in chosen:
        layer = made.get_submodule(linear[name])
        try:
            stored = torch.sparse.to_sparse_semi_structured(layer.get_parameter("weight").detach().contiguous())
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise ModelError(
                f"{CALL}: torch cannot store {name!r} in its semi-structured format: {error} The network has to be on "
                "an NVIDIA GPU of compute capability 8.0 or above, in float16 or bfloat16."
            ) from error
        layer.weight = nn.Parameter(stored, requires_grad=False)
    return made


def _linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear


def _in_pattern(weight: torch.Tensor) -> bool:
    """Whether each row of four consecutive inputs has two zeros at least."""
    return weight.shape[1] % 4 == 0 and bool(((weight.detach().reshape(-1, 4) != 0).sum(1) <= 2).all())
