"""The gates of a network as one vector: their values, and the gradient of their penalty in a few operations."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.methods.tickets.gates import GateGroup, units_in

__all__ = ["GateVector"]


@dc.dataclass(frozen=True, eq=False)
class GateVector:
    """The scales that gate the units of a network, in order of groups, batch norms and channels.

    Args:
        groups: groups with gates that are left, as they are in the dense network.
        sizes: current number of units of each group.
        norms: batch norm weights, by name.
        norm: index in `norms` of each scale, int64 [scales].
        entry: position of each scale in all weights of `norms`, one after the other, int64 [scales].
        unit: unit of each scale, counted over all groups, int64 [scales].
        start: weight of each unit's penalty if all units are left, float32 [units].
        mean: mean cost of a unit in the dense network, multiply-accumulates; None for weights that stay as they are.
    """

    groups: tuple[GateGroup, ...]
    sizes: Mapping[str, int]
    norms: Mapping[str, nn.Parameter]
    norm: torch.Tensor
    entry: torch.Tensor
    unit: torch.Tensor
    start: torch.Tensor
    mean: float | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        graph: Graph,
        groups: Mapping[str, GateGroup],
        weights: Mapping[str, float],
        mean: float | None,
    ) -> GateVector:
        """Collect the gates of a network.

        Args:
            model: the network at its current widths.
            graph: its graph.
            groups: groups with gates that are left, by their names in `graph`.
            weights: weight of each group's penalty, by its name in the dense network; see `cost_weights`.
            mean: see `mean_cost`; None keeps the weights where units interact, too.
        """
        stored = dict(model.named_parameters(remove_duplicate=False))
        used = list(dict.fromkeys(name for each in groups.values() for name in each.norms if name in stored))
        starts = np.cumsum([0, *(stored[name].numel() for name in used)])
        sizes = {each.name: graph[name].size if name in graph else 1 for name, each in groups.items()}
        rows, first = [np.empty((3, 0), dtype=np.int64)], 0
        for name, each in groups.items():
            for scale in filter(stored.__contains__, each.norms):
                index, units = used.index(scale), units_in(graph.layouts[scale][0], name)
                (found,) = np.nonzero(units >= 0)
                rows.append(np.stack([np.full(len(found), index), starts[index] + found, first + units[found]]))
            first += sizes[each.name]
        start = np.repeat([weights[name] for name in sizes], list(sizes.values())).astype(np.float32)
        norm, entry, unit = (torch.from_numpy(row.copy()) for row in np.concatenate(rows, axis=1))
        norms = {name: stored[name] for name in used}
        vector = cls(tuple(groups.values()), sizes, norms, norm, entry, unit, torch.from_numpy(start), mean)
        return vector.on(next(iter(vector.norms.values())).device)

    def on(self, device: torch.device) -> GateVector:
        """Return the vector with its indices and weights on a device."""
        if self.unit.device == device:
            return self
        names = ("norm", "entry", "unit", "start")
        return dc.replace(self, **{name: getattr(self, name).to(device) for name in names})

    @property
    def device(self) -> torch.device:
        """Device of the scales."""
        return next(iter(self.norms.values())).device

    @property
    def units(self) -> int:
        """Number of units of all groups."""
        return len(self.start)

    @functools.cached_property
    def spans(self) -> Mapping[str, slice]:
        """Positions of each group's units."""
        ends = np.cumsum(list(self.sizes.values())).tolist()
        return {name: slice(end - size, end) for (name, size), end in zip(self.sizes.items(), ends, strict=True)}

    def scales(self) -> torch.Tensor:
        """Return the scales, float32 [scales]."""
        weights = [weight.detach().flatten() for weight in self.norms.values()]
        flat = torch.cat([weight.to(self.unit.device, torch.float32) for weight in weights])
        return flat if self._in_order else flat[self.entry]

    def gates(self, scales: torch.Tensor) -> torch.Tensor:
        """Return the gate of each unit, float [units]: the absolute value of its scale, or the norm of several.

        Args:
            scales: scales, float [scales].
        """
        if self._one_each:
            return scales.abs()
        squares = torch.zeros(self.units, dtype=scales.dtype, device=scales.device)
        return squares.index_add_(0, self.unit, scales.square()).sqrt()

    def weights(self, gates: torch.Tensor, eps: float) -> torch.Tensor:
        """Return the weight of each unit's penalty, float32 [units].

        Where units interact, as tokens do, the cost of one depends on how many are left: those above `eps` count.

        Args:
            gates: gate of each unit, float [units].
            eps: gates up to this are dead.
        """
        bent = [each for each in self.groups if each.quadratic]
        if not bent or self.mean is None:
            return self.start
        weights = self.start.clone()
        for each in bent:
            span = self.spans[each.name]
            alive = (gates[span] > eps).sum().clamp(min=1)
            weights[span] = (each.linear + each.quadratic * (2 * alive - 1)).float() / self.mean
        return weights

    @torch.no_grad()
    def penalise(self, strength: float, eps: float) -> None:
        """Add the gradient of the penalty, `strength` times the weighted sum of all gates, to the scales' gradients.

        Args:
            strength: factor of the penalty.
            eps: gates up to this are dead; see `weights`.
        """
        scales = self.scales()
        gates = self.gates(scales)
        weights = self.weights(gates, eps)
        if self._one_each:
            slope = scales.sign() * weights
        else:
            slope = torch.where(gates > 0, weights / gates, 0.0)[self.unit] * scales
        slope *= strength
        lengths = [weight.numel() for weight in self.norms.values()]
        if not self._in_order:
            slope = torch.zeros(sum(lengths), device=slope.device).index_add_(0, self.entry, slope)
        _add_gradients(list(self.norms.values()), torch.split(slope, lengths))

    def kept(self, keep: torch.Tensor, left: Collection[str]) -> torch.Tensor:
        """Return which scales stay when units are removed, bool [scales].

        Args:
            keep: units that stay, bool [units].
            left: names of the parameters of the network afterwards.
        """
        stays = torch.tensor([name in left for name in self.norms], device=self.norm.device)
        return keep.to(self.unit.device)[self.unit] & stays[self.norm]

    @functools.cached_property
    def _one_each(self) -> bool:
        """Whether scales and units are the same, in the same order."""
        return len(self.unit) == self.units and bool(
            (self.unit == torch.arange(self.units, device=self.unit.device)).all()
        )

    @functools.cached_property
    def _in_order(self) -> bool:
        """Whether all weights of all batch norms are scales, in the same order."""
        total = sum(weight.numel() for weight in self.norms.values())
        entries = torch.arange(total, device=self.entry.device)
        return len(self.entry) == total and bool((self.entry == entries).all())


def _add_gradients(weights: Sequence[nn.Parameter], slopes: Sequence[torch.Tensor]) -> None:
    """Add to the gradients of weights; those without gradients get some if they are trained."""
    pairs = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight.requires_grad]
    fitting = []
    for weight, slope in pairs:
        slope = slope.view_as(weight).to(weight.device, weight.dtype)
        if weight.grad is None:
            weight.grad = slope.clone()
        else:
            fitting.append((weight.grad, slope))
    if fitting:
        torch._foreach_add_([grad for grad, _ in fitting], [slope for _, slope in fitting])
