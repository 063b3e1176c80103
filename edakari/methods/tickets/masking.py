"""Masks of single weights while a network trains: outside of the update it computes with zeros where masks are.

A masked weight keeps its value apart. Before an update the values return, so that decay and momentum move all weights,
while the task's gradient of a masked weight is exactly 0; after the update they are put apart again. The parameters
stay the same objects, so that any optimizer, wrapper or checkpoint handles them as before. Loops that clip gradients
count those of masked weights in the norm, because they clip before the update.

Values are handled as integers of the same bits: sums and products of floats would lose the sign of zeros and keep what
is not a number, and torch has no choice between tensors that works on lists of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edakari.core.following import CutTensor
from edakari.core.packed_masks import PackedMask
from edakari.core.weight_masks import WeightMasks

__all__ = ["Masking", "averaged_weights", "packed", "sparsity", "unpacked"]

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by the number of bytes of a floating-point number."""


class Masking:
    """Weights of a network, of which masked ones are zero and keep their value here; run state.

    Args:
        weights: parameters that may be masked, by name, with their values.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.weights = dict(weights)
        self.masks: dict[str, torch.Tensor] = {}
        self._keep: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._apart = False

    @property
    def apart(self) -> bool:
        """Whether masked weights are zero in the network, and their values are here."""
        return self._apart

    def take(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Take masks without a change of the network; parameters whose mask keeps all weights are left out.

        Args:
            masks: see `set`.
        """
        chosen = {name: mask.to(self.weights[name].device) for name, mask in masks.items() if not bool(mask.all())}
        weights = [self.weights[name].detach() for name in chosen]
        self.masks, self._values = chosen, []
        # in the layout of the weights, so that lists of them are handled in one go
        self._keep = [
            torch.empty_like(_bits(each)).copy_(chosen[name]) for name, each in zip(chosen, weights, strict=True)
        ]

    def set(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Set the masks; weights without a mask have their values in the network again.

        Args:
            masks: for each masked parameter, bool in its shape: True where the weight stays. Parameters that are left
                out have no mask.
        """
        self.restore()
        self.take(masks)
        self.mask()

    @torch.no_grad()
    def mask(self) -> None:
        """Put the values of masked weights apart, and zeros in their place."""
        if self._apart or not self.masks:
            return
        live = self._live()
        self._values = self._values or [torch.empty_like(each) for each in live]
        torch._foreach_copy_(self._values, live)
        torch._foreach_mul_(live, self._keep)
        torch._foreach_sub_(self._values, live)
        self._apart = True

    @torch.no_grad()
    def zero_(self) -> None:
        """Set masked weights to zero; their values are lost."""
        if self.masks:
            torch._foreach_mul_(self._live(), self._keep)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the values of masked weights back, bit for bit."""
        if self._apart:
            torch._foreach_add_(self._live(), self._values)
            self._apart = False

    @torch.no_grad()
    def zero_gradients(self) -> None:
        """Set the gradients of masked weights to zero."""
        self._follow_device()
        found = [
            (_bits(grad), keep)
            for name, keep in zip(self.masks, self._keep, strict=True)
            if (grad := self.weights[name].grad) is not None
        ]
        if found:
            torch._foreach_mul_([grad for grad, _ in found], [keep for _, keep in found])

    def followed(self, pairs: Sequence[CutTensor]) -> Masking:
        """Return the masking of the network after a cut, with masks and values cut like the weights.

        Args:
            pairs: all parameters before and after the cut.
        """
        known = {pair.name: pair for pair in pairs if pair.name in self.weights and pair.after is not None}
        made = Masking({pair.new_name: pair.after for pair in known.values() if pair.after is not None})
        cut = {name: known[name].cut(mask) for name, mask in self.masks.items() if name in known}
        made.take({known[name].new_name: mask for name, mask in cut.items()})
        if self._apart:
            values = zip(self.masks, self._values, strict=True)
            floats = {name: each.view(self.weights[name].dtype) for name, each in values if name in known}
            left = {known[name].new_name: known[name].cut(each) for name, each in floats.items()}
            made._values = [_bits(left[name]) for name in made.masks]
            made._apart = bool(made.masks)
        return made

    def state_dict(self) -> dict[str, Any]:
        """Return masks, and the values of masked weights that are not in the network."""
        values = {
            name: each.view(self.weights[name].dtype)[~self.masks[name]]
            for name, each in (zip(self.masks, self._values, strict=True) if self._apart else ())
        }
        return {"masks": packed(self.masks), "values": values}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take masks and values; the network's weights must be those of the time of the state."""
        self.take(unpacked(state["masks"]))
        self._apart = bool(state["values"])
        for name, mask in self.masks.items() if self._apart else ():
            floats = torch.zeros_like(self.weights[name].detach())
            floats[~mask] = state["values"][name].to(floats)
            self._values.append(_bits(floats))
        if self._apart:
            torch._foreach_mul_(self._live(), self._keep)

    def _live(self) -> list[torch.Tensor]:
        self._follow_device()
        return [_bits(self.weights[name].detach()) for name in self.masks]

    def _follow_device(self) -> None:
        """Follow a network that was moved since the masks were set."""
        device = next((self.weights[name].device for name in self.masks), None)
        if device is not None and self._keep[0].device != device:
            self.masks = {name: mask.to(device) for name, mask in self.masks.items()}
            self._keep = [each.to(device) for each in self._keep]
            self._values = [each.to(device) for each in self._values]


def packed(masks: Mapping[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """Return masks as a checkpoint holds them: shape and bits."""
    return {
        name: {"shape": list(mask.shape), "bits": np.frombuffer(mask.bits, dtype=np.uint8).copy()}
        for name, mask in WeightMasks(masks).pack().items()
    }


def unpacked(masks: Mapping[str, Mapping[str, Any]]) -> WeightMasks:
    """The inverse of `packed`; the masks are on the CPU."""
    return WeightMasks.unpack(
        {name: PackedMask(tuple(each["shape"]), bytes(each["bits"])) for name, each in masks.items()}
    )


def averaged_weights(average: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Find the averages of weights in an object that averages a network; empty if it has none of them yet.

    Args:
        average: an object as `edakari.carry` takes it, such as `torch.optim.swa_utils.AveragedModel`, timm's
            `ModelEmaV3`, or a network.
        weights: the weights, by name.
    """
    for value in (average, *vars(average).values(), *getattr(average, "_modules", {}).values()):
        found: Mapping[str, Any] = dict(value.named_parameters()) if isinstance(value, nn.Module) else {}
        found = value if isinstance(value, dict) else found
        if all(isinstance(found.get(name), torch.Tensor) for name in weights):
            return {name: found[name].detach() for name in weights}
    return {}


def sparsity(masks: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> float:
    """Return the fraction of weights that are masked.

    Args:
        masks: bool masks by name, True where a weight stays; parameters without one are not masked.
        weights: all parameters that count, by name.
    """
    total = sum(weight.numel() for weight in weights.values())
    return sum(int((~mask).sum()) for mask in masks.values()) / max(1, total)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(BITS[tensor.element_size()])
