"""Comparison of a network's outputs and features with those of a teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from edakari.core.protocols import Batch
from edakari.core.wrappers import inner
from edakari.errors import DataError, ModelError, UnknownName

__all__ = ["TEMPERATURE", "Compare", "Kept", "captured", "compare_features", "compare_outputs", "require_comparable"]

TEMPERATURE = 4.0
"""Default temperature by which logits of both networks are divided."""

Compare = Callable[[Any, Any, Batch], torch.Tensor]
"""From the outputs of a network, those of its teacher, and the batch to a loss, one scalar tensor."""

Kept = Mapping[str, Sequence[Sequence[torch.Tensor | None]]]
"""For each module, for each tensor that it returns: the indices that a cut kept in each dimension; None is all."""


def compare_outputs(outputs: Any, aims: Any, temperature: float = TEMPERATURE, *, logits: bool = True) -> torch.Tensor:
    """Compute how far outputs are from a teacher's.

    Logits [N, C] with C of two or more: T^2 * KL(teacher || student) of the softmax at temperature T, mean over the
    batch (Hinton et al., 2015, section 2). Other floating tensors: mean squared difference. Mappings, tuples and lists:
    the sum over their entries; entries without floating values are left out.

    Args:
        outputs: outputs of the network.
        aims: outputs of the teacher, of the same form.
        temperature: temperature T of logits.
        logits: whether [N, C] are logits; False takes the squared difference of numbers.

    Raises:
        DataError: the outputs have different forms, or are no tensors to compare, such as the boxes of a detector.
    """
    require_comparable(aims)
    pairs = list(_pairs(outputs, aims, "the output"))
    if not pairs:
        raise DataError("the network and its teacher give no floating tensor, so nothing can be compared")
    return torch.stack([_distance(one, other, temperature if logits else None) for one, other in pairs]).sum()


def require_comparable(aims: Any) -> None:
    """Refuse outputs that are one mapping for each image: the objects of two networks have no common order.

    Raises:
        DataError: they are.
    """
    if isinstance(aims, list | tuple) and aims and all(isinstance(each, Mapping) for each in aims):
        raise DataError(
            "the outputs are one mapping for each image, as a detector's boxes are; those of two networks cannot be "
            "compared, for their objects have no common order. Compare features of named modules instead "
            "(`features` of Task.of, finetune.distill.features in a recipe), or give a `distill` function"
        )


def _pairs(outputs: Any, aims: Any, where: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of floating tensors of the same shape."""
    if isinstance(outputs, torch.Tensor) and isinstance(aims, torch.Tensor):
        if outputs.shape != aims.shape:
            raise DataError(f"{where} is {list(outputs.shape)} for the network and {list(aims.shape)} for its teacher")
        if outputs.is_floating_point():
            yield outputs, aims
    elif isinstance(outputs, Mapping) and isinstance(aims, Mapping):
        common = [name for name in outputs if name in aims]
        if not common:
            raise DataError(f"{where} has the keys {[*outputs][:6]} for the network and {[*aims][:6]} for its teacher")
        for name in common:
            yield from _pairs(outputs[name], aims[name], f"{where}[{name!r}]")
    elif isinstance(outputs, list | tuple) and isinstance(aims, list | tuple):
        if len(outputs) != len(aims):
            raise DataError(f"{where} has {len(outputs)} entries for the network and {len(aims)} for its teacher")
        for index, (one, other) in enumerate(zip(outputs, aims, strict=True)):
            yield from _pairs(one, other, f"{where}[{index}]")
    elif not all(each is None or isinstance(each, bool | int | float | str) for each in (outputs, aims)):
        raise DataError(
            f"{where} is a {type(outputs).__name__} for the network and a {type(aims).__name__} for its teacher, which "
            "cannot be compared; give a `distill` function, or `features` of named modules"
        )


def _distance(one: torch.Tensor, other: torch.Tensor, temperature: float | None) -> torch.Tensor:
    one, other = (each if each.dtype == torch.float64 else each.float() for each in (one, other.to(one.device)))
    if temperature is None or one.ndim != 2 or one.shape[1] < 2:
        return functional.mse_loss(one, other)
    found, aim = (functional.log_softmax(each / temperature, dim=-1) for each in (one, other))
    return functional.kl_div(found, aim, log_target=True, reduction="batchmean") * temperature**2


@contextlib.contextmanager
def captured(model: Any, paths: Iterable[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Context that collects the tensors that modules return, by the modules' dotted paths, in order of their calls.

    Args:
        model: network, perhaps in `DistributedDataParallel`; without paths it may be any function.
        paths: dotted paths of its modules.

    Raises:
        UnknownName: there is no such module; the message names the nearest one.
        ModelError: there are paths, but the function is no network.
    """
    found: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    if not found:
        yield found
        return
    if not isinstance(model, nn.Module):
        raise ModelError(f"features of {', '.join(found)} need a teacher that is a network, not a plain function")
    network: nn.Module = model
    while (within := inner(network)) is not None:
        network = within
    modules = dict(network.named_modules())
    handles = []
    try:
        for path, tensors in found.items():
            if path not in modules:
                raise UnknownName(f"module of {type(network).__name__}", path, modules)

            def note(module: nn.Module, args: Any, output: Any, tensors: list[torch.Tensor] = tensors) -> None:
                tensors.extend(leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))

            handles.append(modules[path].register_forward_hook(note))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def compare_features(
    own: Mapping[str, Sequence[torch.Tensor]],
    aims: Mapping[str, Sequence[torch.Tensor]],
    weights: Mapping[str, float],
    kept: Kept,
) -> dict[str, torch.Tensor]:
    """Compute the mean squared difference of each module's features from the teacher's, times its weight.

    Args:
        own: features of the network, by module.
        aims: features of the teacher.
        weights: weight of each module.
        kept: what a cut kept of the teacher's features, if the network is a cut teacher.

    Returns:
        Loss terms "features.MODULE".

    Raises:
        ModelError: a module did not run, or the features have different shapes.
    """
    terms = {}
    for path, weight in weights.items():
        if not own[path] or len(own[path]) != len(aims[path]):
            raise ModelError(
                f"features of module {path!r}: it gave {len(own[path])} tensors in the network and {len(aims[path])} "
                "in its teacher; name a module that runs in both"
            )
        chosen = kept.get(path, ())
        pairs = [
            _narrowed(path, one, other, chosen[index] if index < len(chosen) else ())
            for index, (one, other) in enumerate(zip(own[path], aims[path], strict=True))
            if one.is_floating_point()
        ]
        if not pairs:
            raise ModelError(f"features of module {path!r}: it gives no floating tensor to compare")
        terms[f"features.{path}"] = weight * torch.stack([functional.mse_loss(*pair) for pair in pairs]).mean()
    return terms


def _narrowed(
    path: str, one: torch.Tensor, other: torch.Tensor, indices: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in one shape: of the teacher's, the positions that the cut kept."""
    other = other.to(one.device)
    if one.shape != other.shape and len(indices) == other.ndim == one.ndim:
        for dim, index in enumerate(indices):
            if index is not None and one.shape[dim] == len(index):
                other = other.index_select(dim, index.to(other.device))
    if one.shape != other.shape:
        raise ModelError(
            f"features of module {path!r} are {list(one.shape)} in the network and {list(other.shape)} in its teacher. "
            "Cut features are compared with those that the plan kept of the unpruned network, in the fine-tuning of a "
            "run; elsewhere, and for other teachers, name modules of the same width (such as the ends of blocks that "
            "stay whole), or compare them in a `distill` function"
        )
    return one.float(), other.float()
