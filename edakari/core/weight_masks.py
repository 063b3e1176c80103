"""Masks of single weights, by parameter: which weights stay, as tensors."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from edakari.core.arguments import found_as
from edakari.core.networks import unwrapped
from edakari.core.packed_masks import PackedMask
from edakari.errors import ModelError, PlanError, nearest

__all__ = ["WeightMasks", "require_parameter"]


@dc.dataclass(frozen=True, eq=False)
class WeightMasks(Mapping[str, torch.Tensor]):
    """For each masked parameter, which of its weights stay: a frozen mapping from names to bool tensors.

    Args:
        masks: for each parameter, a bool tensor of its shape; True keeps the weight, False sets it to zero. The tensors
            are copied.

    Raises:
        PlanError: a mask is not a bool tensor.
    """

    masks: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        if not isinstance(self.masks, Mapping):
            raise PlanError(f"masks of weights are a dict of bool tensors by parameter, but got {found_as(self.masks)}")
        for name, mask in self.masks.items():
            if not isinstance(mask, torch.Tensor):
                raise PlanError(f"the mask of {name!r} takes a bool tensor of its shape, but got {found_as(mask)}")
            if mask.dtype != torch.bool:
                raise PlanError(
                    f"the mask of {name!r} is of type {mask.dtype}, and takes torch.bool: True keeps a weight. "
                    "Of a mask of zeros and ones make one by mask != 0."
                )
            if mask.is_meta:
                raise PlanError(f"the mask of {name!r} has no values (meta); make it on a device")
        object.__setattr__(self, "masks", {name: mask.detach().clone() for name, mask in self.masks.items()})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.masks)

    def __len__(self) -> int:
        return len(self.masks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightMasks) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        kept, every = self.counts()
        return f"WeightMasks of {len(self)} parameters: {kept:,} of {every:,} weights stay"

    def counts(self) -> tuple[int, int]:
        """Return how many of the parameters' weights stay, and how many there are."""
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        return kept, sum(mask.numel() for mask in self.masks.values())

    def pack(self) -> dict[str, PackedMask]:
        """Pack every mask to bits."""
        return {name: PackedMask.of(mask.cpu().numpy()) for name, mask in self.masks.items()}

    @classmethod
    def unpack(cls, packed: Mapping[str, PackedMask]) -> WeightMasks:
        """Unpack masks, on the CPU; the inverse of `pack`."""
        return cls({name: torch.from_numpy(each.array()) for name, each in packed.items()})

    def digest(self) -> str:
        """Compute the SHA-256 of names, shapes and bits; equal masks have equal digests on every machine and device."""
        parts = (f"{name} {each.digest}\n" for name, each in sorted(self.pack().items()))
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    @classmethod
    def two_of_four(cls, model: nn.Module, names: Iterable[str]) -> WeightMasks:
        """Keep, of every four weights of consecutive inputs, the two of largest magnitude.

        This is the 2:4 pattern that NVIDIA's GPUs can multiply faster. In a convolution the four weights are those of
        consecutive input channels at one position of the kernel. Of equal magnitudes the earlier weight stays.

        Args:
            model: the network; wrappers of compilation or data parallelism are ignored.
            names: parameters [outputs, inputs, ...] of linear layers and convolutions.

        Raises:
            PlanError: there is no such parameter, or its inputs do not divide into fours.
            ModelError: a weight is NaN.
        """
        network = unwrapped(model, "WeightMasks.two_of_four(model, names)")
        found = dict(network.named_parameters(remove_duplicate=False))
        masks = {}
        for name in names:
            require_parameter(name, found)
            weight = found[name].detach()
            if weight.dim() < 2 or weight.shape[1] % 4:
                raise PlanError(
                    f"{name!r} of shape {[*weight.shape]} has no 2:4 pattern: its inputs, the second dimension, must "
                    "be a multiple of 4; leave it out"
                )
            if bool(weight.isnan().any()):
                raise ModelError(f"{name!r} has weights that are NaN, which cannot be ranked; check the training")
            last = weight.abs().movedim(1, -1)
            fours = last.reshape(*last.shape[:-1], -1, 4)
            largest = fours.argsort(dim=-1, descending=True, stable=True)[..., :2]
            keep = torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, largest, True)
            masks[name] = keep.flatten(-2).movedim(-1, 1).contiguous()
        return cls(masks)


def require_parameter(name: str, known: Iterable[str]) -> None:
    """Raise an error for the name of a parameter that a network does not have.

    Raises:
        PlanError: the message names the nearest parameter.
    """
    every = list(known)
    if name not in every:
        close = nearest(name, every)
        hint = f"did you mean {close!r}?" if close else f"the network has {len(every)}."
        raise PlanError(
            f"there is no parameter {name!r} to mask; {hint} Names are those of the network without wrappers"
        )
