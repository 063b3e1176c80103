"""First-order change of the loss if a channel were gated at the module inputs that read its group."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from edakari.core.layout import Layout
from edakari.criteria import channels
from edakari.methods.masking.consumers import WeightConsumer, names_in
from edakari.methods.masking.masks import Masks

__all__ = ["SiteTaylor"]


@dc.dataclass(frozen=True, slots=True)
class _Site:
    """A dimension of a module's input that groups lie along, and the row index of each position by group."""

    dim: int
    indices: dict[str, torch.Tensor]


class SiteTaylor:
    """Scores channels by |dL/da| of a gate a = 1 on each tensor that a consumer reads, summed over the tensors.

    Gradients are summed over images and positions before the absolute value, so the scores of a batch are not the sum
    of the scores of its images. A tensor that several layers read has one gate, and other uses of the tensor, such as a
    residual sum, count too. If the input of a layer is not the input of a module, the gate lies on that layer's weight.
    Lee and Song, ECCV 2022.

    Args:
        masks: masks of the network; while they are installed, masked channels have scores of exactly zero.
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.sites: dict[str, tuple[_Site, ...]] = {}
        self.unseen: tuple[WeightConsumer, ...] = ()
        calls = {call.module: call for call in reversed(masks.graph.calls)}
        for read in masks.consumers:
            holder = read.weight.rpartition(".")[0]
            dims = calls[holder].inputs[0] if holder in calls and calls[holder].inputs else ()
            sites = tuple(
                _Site(dim - len(dims), indices) for dim, layout in enumerate(dims) if (indices := self._rows_of(layout))
            )
            read_here = names_in(masks.graph.layouts[read.weight][read.dim])
            if (
                holder == read.caller
                and sites
                and {n for site in sites for n in site.indices} >= self._masked(read_here)
            ):
                self.sites[holder] = sites
            else:
                self.unseen = (*self.unseen, read)

    def score(self, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Score the channels by one batch.

        Args:
            loss: function that runs a forward pass on an input that requires gradients, and returns the loss.

        Returns:
            Scores, float64 [channels] on the CPU, at least 0.
        """
        row = torch.zeros(self.masks.size + 1, dtype=torch.float64)
        weights = [self.masks.model.get_parameter(read.weight) for read in self.unseen]
        with self._watched(row), _requiring_gradients(self.masks.model, weights):
            # torch.autograd.grad would not run the hooks of the watched tensors
            torch.autograd.backward(loss())
            for read, weight in zip(self.unseen, weights, strict=True):
                if weight.grad is not None:
                    along = (weight.detach() * weight.grad).movedim(read.dim, 0).flatten(1).sum(1)
                    self._add(row, self._rows_of(self.masks.graph.layouts[read.weight][read.dim]), along)
        return row[:-1]

    def _masked(self, names: tuple[str, ...]) -> set[str]:
        return {name for name in names if name in self.masks.offsets}

    def _rows_of(self, layout: Layout) -> dict[str, torch.Tensor]:
        indices = {}
        for name in names_in(layout):
            if name in self.masks.offsets:
                where = torch.from_numpy(channels(layout, name))
                indices[name] = torch.where(where < 0, self.masks.size, where + self.masks.offsets[name])
        return indices

    def _add(self, row: torch.Tensor, indices: dict[str, torch.Tensor], figures: torch.Tensor) -> None:
        """Add the absolute scores of the channels of one site to the row, in place."""
        for index in indices.values():
            site = torch.zeros_like(row).index_add_(0, index, figures.double().cpu())
            row += site.abs()

    @contextlib.contextmanager
    def _watched(self, row: torch.Tensor) -> Iterator[None]:
        seen: list[torch.Tensor] = []
        handles = [
            self.masks.model.get_submodule(name).register_forward_pre_hook(self._watch(row, sites, seen))
            for name, sites in self.sites.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch(
        self, row: torch.Tensor, sites: tuple[_Site, ...], seen: list[torch.Tensor]
    ) -> Callable[[nn.Module, Any], None]:
        def watch(module: nn.Module, args: Any) -> None:
            x = args[0]
            if not x.requires_grad or any(x is other for other in seen):
                return
            seen.append(x)
            values = x.detach()  # a hook with a reference to x itself would keep the whole graph alive

            def gated(gradient: torch.Tensor) -> None:
                change = values * gradient
                for site in sites:
                    along = change.movedim(site.dim, 0).flatten(1).sum(1)
                    self._add(row, site.indices, along)

            x.register_hook(gated)

        return watch


@contextlib.contextmanager
def _requiring_gradients(model: nn.Module, weights: list[nn.Parameter]) -> Iterator[None]:
    """Let only some weights require gradients, with no gradients at first; restores all parameters at the end."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    chosen = {id(weight) for weight in weights}
    try:
        for parameter, _, _ in before:
            parameter.grad = None
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
