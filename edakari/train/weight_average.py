"""A hook that averages weights and statistics, for copies of the network to evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.feeding import feed
from edakari.core.following import CutTensor
from edakari.core.networks import unwrapped
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Hook, StepState
from edakari.errors import ModelError, SettingsError
from edakari.train.statistics import Run, recalibrate

__all__ = ["WeightAverage"]

CALL = "WeightAverage(decay)"


class WeightAverage(Hook):
    """Averages parameters and floating-point buffers after each step; mutable state of a run.

    Update t, counted from 1, keeps the fraction d_t = min(decay, (1 + t) / (10 + t)) of the average, so that a large
    decay does not hold on to the first weights. The trained network does not change. As a follower of `edakari.shrink`
    the average is cut like the network.

    Args:
        decay: largest fraction of the average that an update keeps, at least 0 and below 1.

    Raises:
        SettingsError: the decay is outside of its range.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise SettingsError(f"{CALL}: decay must be at least 0 and below 1, but is {decay}")
        self.decay, self.count = decay, 0
        self.tensors: dict[str, torch.Tensor] = {}
        self._live: list[torch.Tensor] = []
        """The network's tensors in the order of `tensors`; empty if they have to be looked up."""

    def before_step(self, state: StepState) -> None:
        """See `Hook`."""
        if not self.tensors:
            self.tensors = {name: tensor.detach().clone() for name, tensor in _averaged_in(state.model).items()}
        if not self._live:
            self._live = self._found_in(state.model)

    @torch.no_grad()
    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        self.count += 1
        torch._foreach_lerp_([*self.tensors.values()], self._live, 1 - self.fraction(self.count))

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        self._live = []  # a later hook may replace tensors

    def fraction(self, update: int) -> float:
        """Return the fraction of the average that an update keeps.

        Args:
            update: number of the update, from 1.
        """
        return min(self.decay, (1 + update) / (10 + update))

    def follow(self, pairs: Sequence[CutTensor]) -> None:
        """See `edakari.core.following.Follower`."""
        known = {pair.name: pair for pair in pairs if pair.name in self.tensors}
        beside = {name: tensor for name, tensor in self.tensors.items() if name not in known}
        stay = {name: pair for name, pair in known.items() if pair.after is not None}
        self.tensors = {pair.new_name: pair.cut(self.tensors[name]) for name, pair in stay.items()} | beside
        self._live = []

    def averaged(self, model: nn.Module) -> nn.Module:
        """Copy the network with the averaged weights and statistics; before the first step, with its own.

        With several processes, all of them call this method, and their statistics are equal afterwards.

        Args:
            model: the trained network; it does not change.

        Raises:
            ModelError: the network was cut, and the average did not follow.
        """
        fresh = copied(unwrapped(model, f"{CALL}.averaged(model)"))
        if self.tensors:
            with torch.no_grad():
                for tensor, value in zip(self._found_in(fresh), self.tensors.values(), strict=True):
                    tensor.copy_(value)
        Processes.here().equalise_(fresh.buffers())
        return fresh

    def evaluation_copy(self, model: nn.Module, batches: Iterable[Batch], run: Run = feed) -> nn.Module:
        """Copy the network with the averaged weights, and recompute its batch normalisation statistics.

        Args:
            model: the trained network; it does not change.
            batches: batches as in evaluation; see `edakari.recalibrate`.
            run: function that calls a network with a batch.

        Raises:
            DataError: there is no batch, or one is too small for statistics.
            ModelError: the network was cut, and the average did not follow.
        """
        return recalibrate(self.averaged(model), batches, run)

    def change(self, model: nn.Module, call: Callable[[nn.Module], Any]) -> None:
        """Change the averaged weights and statistics as a function changes a network; before the first step, nothing.

        Args:
            model: the trained network; it does not change.
            call: function that changes the copy that `averaged` makes, in place.
        """
        if self.tensors:
            fresh = self.averaged(model)
            call(fresh)
            with torch.no_grad():
                for average, tensor in zip(self.tensors.values(), self._found_in(fresh), strict=True):
                    average.copy_(tensor)

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        return {"count": self.count, "tensors": dict(self.tensors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self.count, self.tensors, self._live = int(state["count"]), dict(state["tensors"]), []

    def _found_in(self, model: nn.Module) -> list[torch.Tensor]:
        """The tensors of a network in the order of the averaged ones, which are moved to their devices."""
        found = _averaged_in(model)
        shapes = {name: tensor.shape for name, tensor in found.items()}
        if shapes != {name: tensor.shape for name, tensor in self.tensors.items()}:
            raise ModelError(
                f"{CALL}: the network is no longer the one that is averaged. If it was cut, pass this hook in "
                "`followers` of edakari.shrink"
            )
        self.tensors = {name: tensor.to(found[name].device) for name, tensor in self.tensors.items()}
        return [found[name].detach() for name in self.tensors]


def _averaged_in(model: nn.Module) -> dict[str, torch.Tensor]:
    network = unwrapped(model, CALL)
    every = (*network.named_parameters(), *network.named_buffers())
    return {name: tensor for name, tensor in every if tensor.is_floating_point()}
