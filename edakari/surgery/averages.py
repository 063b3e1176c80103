"""Averages of weights, cut like the network that they average."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import found_as
from edakari.core.networks import unwrapped
from edakari.errors import ModelError, StateError
from edakari.surgery.counterparts import Counterpart

__all__ = ["Cut", "content_of"]


@dc.dataclass(frozen=True)
class Cut:
    """A cut, as averages need it.

    Args:
        old: the network before the cut.
        new: the network after the cut, perhaps wrapped; None if the same object becomes it.
        pairs: tensors before and after the cut.
        apply: function that cuts another network with the structure of `old`.
    """

    old: nn.Module
    new: nn.Module | None
    pairs: Sequence[Counterpart]
    apply: Callable[[nn.Module], nn.Module]


def content_of(average: Any, cut: Cut) -> dict[str, Any]:
    """Find the attributes of an average that hold averaged weights, and cut them; nothing changes yet.

    Args:
        average: an object that holds the averaged network, or averaged tensors by name or in the order of the
            parameters, in its attributes.
        cut: the cut.

    Returns:
        New values by the attribute's name.

    Raises:
        StateError: the object holds nothing like it.
    """
    found: dict[str, Any] = {}
    for name, value in {**getattr(average, "__dict__", {}), **getattr(average, "_modules", {})}.items():
        made = _cut_value(value, cut)
        if made is not None:
            found[name] = made
    if not found:
        held = "; it is a network itself: cut it by edakari.apply, as you cut yours" if _fits(average, cut) else ""
        raise StateError(
            f"carry found no averaged weights of {type(cut.old).__name__} in {found_as(average)}{held}. Pass "
            "the object that holds the averaged network, such as torch.optim.swa_utils.AveragedModel or timm's "
            "ModelEmaV3; it must average the network that was cut."
        )
    return found


def _cut_value(value: Any, cut: Cut) -> Any:
    """Cut the value of an attribute; None if it holds no averaged weights."""
    if isinstance(value, nn.Module):
        return _cut_network(value, cut)
    if isinstance(value, dict) and value and all(isinstance(each, torch.Tensor) for each in value.values()):
        pairs = {pair.name: pair for pair in cut.pairs}
        if all(name in pairs and value[name].shape == pairs[name].before.shape for name in value):
            kept = {name: each for name, each in value.items() if pairs[name].after is not None}
            return {pairs[name].new_name: pairs[name].cut_weights(each) for name, each in kept.items()}
    if isinstance(value, list) and value and all(isinstance(each, torch.Tensor) for each in value):
        return _cut_list(value, cut)
    return None


def _cut_network(value: nn.Module, cut: Cut) -> nn.Module | None:
    if not _fits(value, cut):
        return None
    network = unwrapped(value, "carry(optimizer, old, new, plan, average)")
    same = {id(each) for each in cut.old.parameters()} & {id(each) for each in network.parameters()}
    if not same:
        return cut.apply(network)
    return value if cut.new is None else cut.new


def _cut_list(values: list[torch.Tensor], cut: Cut) -> list[torch.Tensor] | None:
    """Cut tensors in the order of the parameters, or of the trainable ones."""
    parameters = [pair for pair in cut.pairs if isinstance(pair.before, nn.Parameter)]
    trainable = [pair for pair in parameters if pair.before.requires_grad]
    for pairs in (parameters, trainable):
        if [each.shape for each in values] == [pair.before.shape for pair in pairs]:
            kept = [(pair, each) for pair, each in zip(pairs, values, strict=True) if pair.after is not None]
            return [pair.cut_weights(each) for pair, each in kept]
    return None


def _fits(value: Any, cut: Cut) -> bool:
    """Return whether a value is a network with the parameters of the one that was cut."""
    if not isinstance(value, nn.Module):
        return False
    try:
        network = unwrapped(value, "carry(optimizer, old, new, plan, average)")
    except ModelError:
        return False
    return _shapes(network) == _shapes(cut.old)


def _shapes(network: nn.Module) -> Mapping[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}
