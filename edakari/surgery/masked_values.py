"""Masks of the weights of a network that was cut, and values that a mask should have removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from edakari.core.layout import kept
from edakari.core.packed_masks import PackedMask
from edakari.core.plan import Layouts, Plan, channel_masks

__all__ = ["masks_after", "packed_after", "values_in_masks"]


def masks_after(plan: Plan, layouts: Layouts, held: Mapping[str, PackedMask] | None = None) -> dict[str, PackedMask]:
    """Cut a plan's masks of weights by its channels: the masks of the network that `apply` returns.

    Args:
        plan: a plan.
        layouts: layouts of the plan's dense network.
        held: masks that the dense network's weights had before, of an earlier plan.
    """
    found = dict(plan.packed_masks())
    for name, mask in (held or {}).items():
        found[name] = PackedMask.of(mask.array() & found[name].array()) if name in found else mask
    masks = channel_masks(plan, (dim for name in found for dim in layouts[name]))
    return {
        name: PackedMask.of(mask.array()[np.ix_(*(kept(dim, masks) for dim in layouts[name]))])
        for name, mask in found.items()
    }


def packed_after(
    small: nn.Module, plan: Plan, model: nn.Module, layouts: Layouts, held: Mapping[str, PackedMask]
) -> dict[str, PackedMask]:
    """Return the masks of a pruned network's weights by the names that its parameters have.

    Args:
        small: what the plan made of the network.
        plan: the plan.
        model: the network before.
        layouts: layouts of the network before.
        held: masks that its weights had.
    """
    if not held and not plan.packed_masks():
        return {}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    own, there = dict(model.named_parameters()), dict(small.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in small.named_parameters()}
    found = {}
    for name, mask in masks_after(plan, layouts, held).items():
        # the first name of a tied parameter may have gone with a branch
        alias = next((each for each in names[id(own[name])] if each in there), None)
        if alias is not None and tuple(there[alias].shape) == mask.shape:
            found[first[id(there[alias])]] = mask
    return found


def values_in_masks(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, int]]:
    """Yield each parameter with values other than zero where a mask removes the weights, and their number."""
    named = dict(model.named_parameters())
    for name, mask in masks.items():
        values = named[name].detach()
        number = 0 if values.is_meta else int((values[~mask.to(values.device)] != 0).sum())
        if number:
            yield name, number
