"""Masks on the parameters of a network in training, which then computes as if it were cut.

Each group has one mask on its channels. The mask applies to the consumers of the group: the input columns of weights,
and the statistics of layer norms. Gates, which may have gradients, can replace masks. The parameters remain leaves of
the same names, as the optimizer, the gradient buckets of processes and checkpoints need. A masked tensor replaces a
parameter only while its module runs.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from edakari.core.graph import Branch, Graph
from edakari.core.layout import Layout
from edakari.core.space import Group
from edakari.criteria import channels
from edakari.methods.masking.consumers import Structure, WeightConsumer, names_in, structure_of
from edakari.methods.masking.layer_norms import normalised_where_unmasked
from edakari.methods.masking.stand_ins import StandIn, putting, taking_off
from edakari.methods.masking.straight import Rescaled, Straight

__all__ = ["Masks", "Mode", "maskable"]

Mode = Literal["soft", "hard", "permanent"]
"""Gradient of masked weights: "soft" is the gradient as if there were no mask, "hard" is none, "permanent" is none, and
masked weights are set to zero."""
CPU = torch.device("cpu")


def maskable(graph: Graph, groups: Sequence[Group], structure: Structure | None = None) -> tuple[Group, ...]:
    """Return the groups that can be masked: weights read them, and no other operator mixes their positions.

    Branches can always be masked.

    Args:
        graph: graph of the network.
        groups: groups to choose from.
        structure: consumers and producers of the network; None finds them.
    """
    structure = structure or structure_of(graph)
    read = {name for each in structure.consumers for name in names_in(graph.layouts[each.weight][each.dim])}
    branches = {branch.name for branch in graph.branches}
    return tuple(g for g in groups if g.name in branches or (g.name in read and g.name not in structure.closed))


class Masks:
    """The masks of a network's groups, and the hooks that apply them; run state.

    The channels of all groups form one row, so that scores and masks are one tensor each; the channels of group g start
    at `offsets[g]`. Tensors stay on the parameters' device; only `set` reads values.

    Args:
        model: the network; it is not changed until `installed`.
        graph: graph of the network.
        groups: maskable groups and branches.
        mode: gradient of masked weights; see `Mode`.
        scale_norms: multiply the batch norm behind a masked layer by the fraction of unmasked inputs.
        lengthened: weights, with the modules that use them, whose unmasked rows and columns are scaled to the Frobenius
            norm of the full weight.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        groups: Sequence[Group],
        mode: Mode = "soft",
        scale_norms: bool = False,
        lengthened: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.graph, self.groups, self.mode = model, graph, tuple(groups), mode
        self.lengthened = dict(lengthened or {})
        self._energies = {name: _energies(model.get_parameter(name)) for name in self.lengthened}
        self._lengths: dict[str, float] = {}
        structure = structure_of(graph)
        names = {group.name for group in groups}
        self.offsets: dict[str, int] = {}
        self.size = 0
        for group in groups:
            self.offsets[group.name], self.size = self.size, self.size + group.size
        self.consumers = tuple(
            r for r in structure.consumers if names.intersection(names_in(graph.layouts[r.weight][r.dim]))
        )
        self.producers = tuple(
            w for w in structure.producers if names.intersection(names_in(graph.layouts[w.weight][w.dim]))
        )
        self.layer_norms = tuple(norm for norm in structure.layer_norms if names.intersection(names_in(norm.layout)))
        self.branches = tuple(branch for branch in graph.branches if branch.name in names)
        self.scaled = {r.norm: r for r in self.consumers if r.norm} if scale_norms else {}
        self._places: dict[tuple[Layout, torch.device], dict[str, torch.Tensor]] = {}
        self._positions: dict[Layout, torch.Tensor | None] = {}
        self._scales: dict[str, float] = {}
        self._dropped: frozenset[str] = frozenset()
        self.set(torch.ones(self.size, dtype=torch.bool))

    def _channel_indices(self, layout: Layout, device: torch.device = CPU) -> dict[str, torch.Tensor]:
        """For each masked group of a dimension, the row index of each position; the last index if it has none."""
        if (layout, device) not in self._places:
            found = self._places[layout, device] = {}
            for name in names_in(layout):
                if name in self.offsets:
                    where = torch.from_numpy(channels(layout, name))
                    found[name] = torch.where(where < 0, self.size, where + self.offsets[name]).to(device)
        return self._places[layout, device]

    def part(self, name: str) -> slice:
        """Return the slice of the row that holds a group's channels."""
        start = self.offsets[name]
        size = next(group.size for group in self.groups if group.name == name)
        return slice(start, start + size)

    def readers(self, group: str) -> int:
        """Return the number of weights that read a group."""
        return sum(group in names_in(self.graph.layouts[read.weight][read.dim]) for read in self.consumers)

    def set(self, mask: torch.Tensor) -> None:
        """Set the masks of all groups.

        Args:
            mask: channels that are not masked, bool [channels] on the CPU.
        """
        self.mask = mask.clone()
        self._row = torch.cat([mask, torch.ones(1, dtype=torch.bool)])
        self._positions, self._scales, self._lengths = {}, {}, {}
        self._dropped = frozenset(branch.name for branch in self.branches if not bool(mask[self.offsets[branch.name]]))
        if self.mode == "permanent":
            with torch.no_grad():
                for read in self.consumers:
                    weight = self.model.get_parameter(read.weight)
                    weight.mul_(self._along(read, weight))

    def lift(self) -> None:
        """Let the network compute without masks, once it is cut; `mask` stays what it was."""
        self._row = torch.ones(self.size + 1, dtype=torch.bool)
        self._positions, self._scales, self._lengths, self._dropped = {}, {}, {}, frozenset()

    def gate(self, gates: torch.Tensor) -> None:
        """Replace the masks by gates, which multiply the weights that read a channel.

        Args:
            gates: gate of each channel, float [channels]; may have gradients. The mode must be "hard", and no group may
                be a branch.
        """
        self._row = torch.cat([gates, gates.new_ones(1)])
        self._positions = {}

    def positions(self, layout: Layout, like: torch.Tensor) -> torch.Tensor | None:
        """Return the mask or the gates of the positions of a dimension; None if no position is masked.

        Args:
            layout: layout of the dimension.
            like: tensor that gives the device and the dtype of the result.
        """
        if layout not in self._positions:
            self._positions[layout] = self._product(layout)
        mask = self._positions[layout]
        if mask is not None and (mask.device != like.device or mask.dtype != like.dtype):
            mask = self._positions[layout] = mask.to(like)
        return mask

    def _product(self, layout: Layout) -> torch.Tensor | None:
        factors = [self._row[index] for index in self._channel_indices(layout).values()]
        if not factors:
            return None
        mask = math.prod(factors[1:], start=factors[0])
        if mask.dtype is not torch.bool:
            return mask
        return None if bool(mask.all()) else mask.float()

    def _along(self, read: WeightConsumer, weight: torch.Tensor) -> torch.Tensor | float:
        """The mask of a weight, in a shape that broadcasts to it; 1 if nothing is masked."""
        mask = self.positions(self.graph.layouts[read.weight][read.dim], weight)
        return 1.0 if mask is None else mask.view([-1 if d == read.dim else 1 for d in range(weight.dim())])

    def scale(self, norm: str) -> float:
        """Return the factor of a batch norm: the fraction of unmasked inputs of the layer in front of it."""
        if norm not in self._scales:
            read = self.scaled[norm]
            mask = self._product(self.graph.layouts[read.weight][read.dim])
            self._scales[norm] = 1.0 if mask is None else float(mask.double().mean())
        return self._scales[norm]

    def length(self, weight: str) -> float:
        """Return the factor that restores the Frobenius norm of a masked weight."""
        if weight not in self._lengths:
            left_OI = self._energies[weight]
            for dim in (0, 1):
                mask = self._product(self.graph.layouts[weight][dim])
                left_OI = left_OI if mask is None else left_OI.index_select(dim, mask.nonzero().view(-1))
            full, left = float(self._energies[weight].sum()), float(left_OI.sum())
            self._lengths[weight] = (full / left) ** 0.5 if 0 < left < full else 1.0
        return self._lengths[weight]

    def affected_modules(self, group: str) -> frozenset[str]:
        """Return the modules whose outputs change with the mask of a group, given the same inputs."""
        layouts = self.graph.layouts
        found = {read.caller for read in self.consumers if group in names_in(layouts[read.weight][read.dim])}
        found |= {
            read.norm_caller for read in self.scaled.values() if group in names_in(layouts[read.weight][read.dim])
        }
        found |= {caller for name, caller in self.lengthened.items() if group in names_in(*layouts[name][:2])}
        found |= {norm.module for norm in self.layer_norms if group in names_in(norm.layout)}
        return frozenset(found | {branch.exit for branch in self.branches if branch.name == group})

    def on_channels(self, row: torch.Tensor, layout: Layout, figures: torch.Tensor) -> None:
        """Add values at the positions of a dimension to the channels that they belong to, in place.

        If a dimension is a product of groups, positions that another group masks are left out, because they have no
        effect on the outputs.

        Args:
            row: float [channels + 1]; values of positions outside masked groups are added to the last entry.
            layout: layout of the dimension.
            figures: value of each position, float [positions].
        """
        figures = figures.to(row.dtype)
        masks = {name: self._row[index] for name, index in self._channel_indices(layout).items()}
        for name, index in self._channel_indices(layout, row.device).items():
            others = [mask for other, mask in masks.items() if other != name]
            counted = figures * math.prod(others[1:], start=others[0]).to(row) if others else figures
            row.index_add_(0, index, counted)

    def add_masked_decay(self, decay: float) -> None:
        """Add `decay` times the weight to the gradient of masked weights, in place."""
        if decay == 0:
            return
        for read in self.consumers:
            weight = self.model.get_parameter(read.weight)
            along = self._along(read, weight)
            if weight.grad is not None and not isinstance(along, float):
                weight.grad.addcmul_(weight.detach(), 1 - along, value=decay)

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the scales of batch norms and the factors of lengthened weights into the parameters, in place."""
        for norm in self.scaled:
            self.model.get_parameter(norm).mul_(self.scale(norm))
        for weight in self.lengthened:
            self.model.get_parameter(weight).mul_(self.length(weight))

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let the network compute with the masks inside the context; restores it at the end."""
        handles: list[Any] = []
        try:
            for caller, stand_ins in self._stand_ins().items():
                module = self.model.get_submodule(caller)
                handles.append(module.register_forward_pre_hook(putting(stand_ins)))
                handles.append(module.register_forward_hook(taking_off(stand_ins), always_call=True))
            for norm in self.layer_norms:
                handles.append(
                    self.model.get_submodule(norm.module).register_forward_hook(normalised_where_unmasked(self, norm))
                )
            for branch in self.branches:
                handles.append(self.model.get_submodule(branch.exit).register_forward_hook(_gated(self, branch)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _stand_ins(self) -> dict[str, list[StandIn]]:
        found: dict[str, list[StandIn]] = collections.defaultdict(list)
        for read in self.consumers:
            found[read.caller].append(StandIn.of(read.weight, read.caller, _masked(self, read)))
        read_here = {read.weight for read in self.consumers}
        for weight, caller in self.lengthened.items():
            if weight not in read_here:
                found[caller].append(StandIn.of(weight, caller, _longer(self, weight)))
        for norm, read in self.scaled.items():
            found[read.norm_caller].append(StandIn.of(norm, read.norm_caller, _rescaled(self, norm)))
        return found


def _masked(masks: Masks, read: WeightConsumer) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(weight: torch.Tensor) -> torch.Tensor:
        along = masks._along(read, weight)
        if isinstance(along, float):
            return longer(weight)
        made: torch.Tensor = Straight.apply(weight, along) if masks.mode == "soft" else weight * along
        return longer(made)

    longer = _longer(masks, read.weight)
    return make


def _longer(masks: Masks, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(weight: torch.Tensor) -> torch.Tensor:
        length = masks.length(name) if name in masks.lengthened else 1.0
        return weight if length == 1.0 else weight * length

    return make


def _energies(weight: torch.Tensor) -> torch.Tensor:
    """Squares of a weight, summed over its kernel, float64 [rows, columns] on the CPU."""
    squares = weight.detach().double().square().cpu()
    return squares.flatten(2).sum(2) if squares.dim() > 2 else squares


def _rescaled(masks: Masks, norm: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def make(weight: torch.Tensor) -> torch.Tensor:
        scale = masks.scale(norm)
        made: torch.Tensor = weight if scale == 1.0 else Rescaled.apply(weight, scale)
        return made

    return make


def _gated(masks: Masks, branch: Branch) -> Callable[[Any, Any, Any], Any]:
    def gated(module: Any, args: Any, output: Any) -> Any:
        if branch.name not in masks._dropped:
            return output
        first = output[0] if isinstance(output, tuple) else output
        zeros: torch.Tensor = Straight.apply(first, first.new_zeros(())) if masks.mode == "soft" else first * 0
        return (zeros, *output[1:]) if isinstance(output, tuple) else zeros

    return gated
