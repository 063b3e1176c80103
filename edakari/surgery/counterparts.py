"""Which tensor of a pruned network stands for which tensor of the network that was cut."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Layout, extent
from edakari.core.plan import Plan
from edakari.errors import PlanError
from edakari.graph import indices_of, taken
from edakari.surgery.applying import branches_dropped, masks_of

__all__ = ["Counterpart", "added", "counterparts"]


@dc.dataclass(frozen=True, eq=False)
class Counterpart:
    """A parameter or buffer before and after a cut.

    Args:
        name: its name in the network before the cut.
        before: the tensor before the cut.
        after: the tensor after the cut; None if it was removed with its branch.
        indices: for each dimension, indices of the positions that are kept; None where all are.
        new_name: its name in the network after the cut. It differs only if the tensor has several names, and the first
            of them was removed with a branch.
        mask: which weights of the tensor after the cut the plan leaves, bool of its shape; None if it masks none.
    """

    name: str
    before: torch.Tensor
    after: torch.Tensor | None
    indices: tuple[torch.Tensor | None, ...]
    new_name: str
    mask: torch.Tensor | None = None

    @property
    def changed(self) -> bool:
        """Whether the cut removed the tensor or a part of it."""
        return self.after is None or any(index is not None for index in self.indices)

    def cut(self, value: torch.Tensor) -> torch.Tensor:
        """Cut a tensor of the shape before the cut; masked weights keep their values in it.

        The result lies in memory as the pruned tensor does, as optimizers make their states. It follows the pruned
        tensor to another device or type if the value had those of the tensor before the cut.
        """
        assert self.after is not None
        device = self.after.device if value.device == self.before.device else value.device
        dtype = self.after.dtype if value.dtype == self.before.dtype else value.dtype
        made = torch.empty_like(self.after, dtype=dtype, device=device, requires_grad=False)
        return made.copy_(taken(value.detach(), self.indices))

    def cut_weights(self, value: torch.Tensor) -> torch.Tensor:
        """Cut other values of the weights, such as averages, as `apply` cuts the weights: masked ones become zeros."""
        made = self.cut(value)
        return made if self.mask is None else made.masked_fill_(~self.mask.to(made.device), 0)


def counterparts(network: nn.Module, new: nn.Module, plan: Plan, graph: Graph) -> tuple[Counterpart, ...]:
    """Find what became of each parameter and buffer of a network.

    Args:
        network: the network before the cut.
        new: the network after the cut.
        plan: the plan of the cut.
        graph: graph of the network before the cut.

    Raises:
        PlanError: `new` is not the plan's result; the message names a parameter that differs.
    """
    found, masks, known = _by_name(new), masks_of(plan, graph), dict[Layout, torch.Tensor | None]()
    aliases: dict[int, list[str]] = {}
    for name, tensor in _by_name(network).items():
        aliases.setdefault(id(tensor), []).append(name)
    weights, result = plan.masks(), []
    for name, before in (*network.named_parameters(), *network.named_buffers()):
        if name not in graph.layouts:
            continue  # a buffer that a pass after the trace has left behind
        # the first of a tied tensor's names may have gone with a branch
        new_name = next((alias for alias in aliases[id(before)] if alias in found), "")
        after = found.get(new_name)
        if isinstance(before, nn.Parameter):
            _check(name, after, plan, graph)
        indices = indices_of(graph.layouts[name], masks, known)
        mask = taken(weights[name], indices) if name in weights else None
        result.append(Counterpart(name, before, after, indices, new_name, mask))
    return tuple(result)


def added(new: nn.Module, pairs: Sequence[Counterpart]) -> Iterator[str]:
    """Yield the names of trainable parameters that the network before the cut did not have."""
    known = {id(pair.after) for pair in pairs}
    yield from (name for name, each in new.named_parameters() if each.requires_grad and id(each) not in known)


def _by_name(network: nn.Module) -> Mapping[str, torch.Tensor]:
    """All names of all parameters and buffers, with those of tied ones."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def _check(name: str, after: torch.Tensor | None, plan: Plan, graph: Graph) -> None:
    if after is None:
        gone = {axis.group for axis in graph.enclosing_branches_of_tensor(name)} & set(branches_dropped(plan))
        wrong = "" if gone else f"it has no {name!r}"
    else:
        shape = tuple(int(extent(dim, plan.sizes())) for dim in graph.layouts[name])
        wrong = "" if shape == tuple(after.shape) else f"{name!r} is {[*after.shape]}, but the plan gives {[*shape]}"
    if wrong:
        raise PlanError(
            f"the new network is not the result of the plan: {wrong}. Pass what apply(old, plan) returned; replace "
            "layers after carry, not before."
        )
