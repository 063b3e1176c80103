"""Masks on the parameters of a network in training: it computes as though it were cut, and nothing is cut yet.

One mask per group, on its channels. It is applied where the group is read: to the input columns of weights, and to
the statistics of layer norms. Gates, which may have gradients, can take the masks' place. The parameters stay what they
are: leaves of the same name, which the optimizer, the processes' gradient buckets and checkpoints know. Only while a
module runs does a masked tensor stand in its place.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses as dc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from edakari.core.graph import Branch, Graph
from edakari.core.layout import Layout
from edakari.core.space import Group
from edakari.core.stand_ins import put_stand_in, take_stand_in_off
from edakari.criteria import channels
from edakari.methods.masking.consumers import Structure, WeightConsumer, names_in, structure_of
from edakari.methods.masking.layer_norms import normalised_where_kept
from edakari.methods.masking.straight import Rescaled, Straight

__all__ = ["Masks", "Mode", "maskable"]

Mode = Literal["soft", "hard", "permanent"]
"""What removed positions get: "soft" the gradient that they would have if they were there, "hard" none, "permanent"
none and zeros for weights."""
CPU = torch.device("cpu")


def maskable(graph: Graph, groups: Sequence[Group], structure: Structure | None = None) -> tuple[Group, ...]:
    """Those of some groups that masks can stand for: weights read them, and nothing else mixes their positions.

    Branches always can.
    """
    structure = structure or structure_of(graph)
    read = {name for each in structure.consumers for name in names_in(graph.layouts[each.weight][each.dim])}
    branches = {branch.name for branch in graph.branches}
    return tuple(g for g in groups if g.name in branches or (g.name in read and g.name not in structure.closed))


class Masks:
    """The masks of a network's groups, and what computes with them; run state.

    Coordinates of all groups lie in one row, so that scores and masks are one tensor each: those of group g begin at
    `offsets[g]`. Everything stays on the parameters' device; only `set` looks at values.

    Args:
        model: the network; its parameters are looked up by name, nothing of it is changed until `installed`.
        graph: of the network.
        groups: maskable groups and branches.
        mode: what removed positions get.
        scale_norms: multiply the batch normalisation behind a masked layer by the share of inputs that is kept.
        lengthened: weights, with the modules that use them, that are multiplied so that what is kept of their rows and
            columns has the Frobenius norm of the whole.
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
        """For each masked group of a dimension, the index in the row of each position; the end where it has none."""
        if (layout, device) not in self._places:
            found = self._places[layout, device] = {}
            for name in names_in(layout):
                if name in self.offsets:
                    where = torch.from_numpy(channels(layout, name))
                    found[name] = torch.where(where < 0, self.size, where + self.offsets[name]).to(device)
        return self._places[layout, device]

    def part(self, name: str) -> slice:
        """Where a group's channels lie in the row."""
        start = self.offsets[name]
        size = next(group.size for group in self.groups if group.name == name)
        return slice(start, start + size)

    def set(self, kept: torch.Tensor) -> None:
        """Put other masks in force.

        Args:
            kept: bool [channels] on the CPU.
        """
        self.kept = kept.clone()
        self._row = torch.cat([kept, torch.ones(1, dtype=torch.bool)])
        self._positions, self._scales, self._lengths = {}, {}, {}
        self._dropped = frozenset(branch.name for branch in self.branches if not bool(kept[self.offsets[branch.name]]))
        if self.mode == "permanent":
            with torch.no_grad():
                for read in self.consumers:
                    weight = self.model.get_parameter(read.weight)
                    weight.mul_(self._along(read, weight))

    def gate(self, gates: torch.Tensor) -> None:
        """Put gates in force in place of masks: what a channel is read with is multiplied by its gate.

        Args:
            gates: float [channels], which may have a gradient; of groups that are no branches, in mode "hard".
        """
        self._row = torch.cat([gates, gates.new_ones(1)])
        self._positions = {}

    def positions(self, layout: Layout, like: torch.Tensor) -> torch.Tensor | None:
        """Which positions of a dimension are kept, one and zero as `like`, or their gates; None where all are kept."""
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
        """The mask of a weight, in a shape that broadcasts to it; 1 where nothing is gone."""
        mask = self.positions(self.graph.layouts[read.weight][read.dim], weight)
        return 1.0 if mask is None else mask.view([-1 if d == read.dim else 1 for d in range(weight.dim())])

    def scale(self, norm: str) -> float:
        """What a batch normalisation is multiplied by: the share of inputs that the layer in front of it keeps."""
        if norm not in self._scales:
            read = self.scaled[norm]
            mask = self._product(self.graph.layouts[read.weight][read.dim])
            self._scales[norm] = 1.0 if mask is None else float(mask.double().mean())
        return self._scales[norm]

    def length(self, weight: str) -> float:
        """What a lengthened weight is multiplied by."""
        if weight not in self._lengths:
            left_OI = self._energies[weight]
            for dim in (0, 1):
                mask = self._product(self.graph.layouts[weight][dim])
                left_OI = left_OI if mask is None else left_OI.index_select(dim, mask.nonzero().view(-1))
            whole, left = float(self._energies[weight].sum()), float(left_OI.sum())
            self._lengths[weight] = (whole / left) ** 0.5 if 0 < left < whole else 1.0
        return self._lengths[weight]

    def touched(self, group: str) -> frozenset[str]:
        """The modules that compute otherwise when the mask of a group changes."""
        layouts = self.graph.layouts
        found = {read.caller for read in self.consumers if group in names_in(layouts[read.weight][read.dim])}
        found |= {
            read.norm_caller for read in self.scaled.values() if group in names_in(layouts[read.weight][read.dim])
        }
        found |= {caller for name, caller in self.lengthened.items() if group in names_in(*layouts[name][:2])}
        found |= {norm.module for norm in self.layer_norms if group in names_in(norm.layout)}
        return frozenset(found | {branch.exit for branch in self.branches if branch.name == group})

    def on_channels(self, row: torch.Tensor, layout: Layout, figures: torch.Tensor) -> None:
        """Add figures on the positions of a dimension to the channels that they belong to, in place.

        Where a dimension is a product of groups, positions that another group has masked are left out: they have no
        effect on the outputs, whatever becomes of the channel.

        Args:
            row: float [channels + 1]; what belongs to no masked group is added to the last entry.
            layout: of the dimension.
            figures: float [positions].
        """
        figures = figures.to(row.dtype)
        kept = {name: self._row[index] for name, index in self._channel_indices(layout).items()}
        for name, index in self._channel_indices(layout, row.device).items():
            others = [mask for other, mask in kept.items() if other != name]
            counted = figures * math.prod(others[1:], start=others[0]).to(row) if others else figures
            row.index_add_(0, index, counted)

    def pull(self, decay: float) -> None:
        """Add `decay` times the weight to the gradient of what is masked, in place."""
        if decay == 0:
            return
        for read in self.consumers:
            weight = self.model.get_parameter(read.weight)
            along = self._along(read, weight)
            if weight.grad is not None and not isinstance(along, float):
                weight.grad.addcmul_(weight.detach(), 1 - along, value=decay)

    @torch.no_grad()
    def fold(self) -> None:
        """Write what the masks do to parameters that a cut leaves into them: the scales of norms, and lengths."""
        for norm in self.scaled:
            self.model.get_parameter(norm).mul_(self.scale(norm))
        for weight in self.lengthened:
            self.model.get_parameter(weight).mul_(self.length(weight))

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """The network computes with the masks; ends as it was."""
        handles: list[Any] = []
        try:
            for caller, stand_ins in self._stand_ins().items():
                module = self.model.get_submodule(caller)
                handles.append(module.register_forward_pre_hook(_before(stand_ins)))
                handles.append(module.register_forward_hook(_after(stand_ins), always_call=True))
            for norm in self.layer_norms:
                handles.append(
                    self.model.get_submodule(norm.module).register_forward_hook(normalised_where_kept(self, norm))
                )
            for branch in self.branches:
                handles.append(self.model.get_submodule(branch.exit).register_forward_hook(_gated(self, branch)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _stand_ins(self) -> dict[str, list[_StandIn]]:
        found: dict[str, list[_StandIn]] = collections.defaultdict(list)
        for read in self.consumers:
            found[read.caller].append(_StandIn.of(read.weight, read.caller, _masked(self, read)))
        read_here = {read.weight for read in self.consumers}
        for weight, caller in self.lengthened.items():
            if weight not in read_here:
                found[caller].append(_StandIn.of(weight, caller, _longer(self, weight)))
        for norm, read in self.scaled.items():
            found[read.norm_caller].append(_StandIn.of(norm, read.norm_caller, _rescaled(self, norm)))
        return found


@dc.dataclass(frozen=True, slots=True)
class _StandIn:
    """What stands in for a parameter while a module runs: the module that holds it, from there on, and its name."""

    holder: str
    name: str
    make: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def of(cls, parameter: str, caller: str, make: Callable[[torch.Tensor], torch.Tensor]) -> _StandIn:
        holder, _, name = parameter.rpartition(".")
        return cls(holder.removeprefix(caller).removeprefix("."), name, make)


# Hooks are closures and look parameters up below the module that they are called with: averaged copies of a network
# share them and have parameters of their own.


def _before(stand_ins: Sequence[_StandIn]) -> Callable[[nn.Module, Any], None]:
    def before(module: nn.Module, args: Any) -> None:
        for each in stand_ins:
            holder = module.get_submodule(each.holder) if each.holder else module
            weight = holder._parameters[each.name]
            if weight is not None:
                made = each.make(weight)
                if made is not weight:
                    put_stand_in(holder, made, each.name)

    return before


def _after(stand_ins: Sequence[_StandIn]) -> Callable[[nn.Module, Any, Any], None]:
    def after(module: nn.Module, args: Any, output: Any) -> None:
        for each in stand_ins:
            take_stand_in_off(module.get_submodule(each.holder) if each.holder else module, each.name)

    return after


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
