"""Hooks that replace parameters by other tensors while a module runs.

Hooks are closures that look parameters up below the module that they are called with, because averaged copies of a
network have the same hooks but parameters of their own.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.stand_ins import put_stand_in, take_stand_in_off

__all__ = ["StandIn", "putting", "taking_off"]


@dc.dataclass(frozen=True, slots=True)
class StandIn:
    """A replacement of a parameter while a module runs.

    Args:
        holder: path from the module that runs to the module that holds the parameter; empty if they are the same.
        name: name of the parameter in its holder.
        make: function from the parameter to the tensor that replaces it.
    """

    holder: str
    name: str
    make: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def of(cls, parameter: str, caller: str, make: Callable[[torch.Tensor], torch.Tensor]) -> StandIn:
        """Make the stand-in of a parameter for a module.

        Args:
            parameter: dotted name of the parameter in the network.
            caller: dotted path of the module that runs.
            make: function from the parameter to the tensor that replaces it.
        """
        holder, _, name = parameter.rpartition(".")
        return cls(holder.removeprefix(caller).removeprefix("."), name, make)


def putting(stand_ins: Sequence[StandIn]) -> Callable[[nn.Module, Any], None]:
    """Return a forward pre-hook that puts stand-ins in the places of parameters."""

    def before(module: nn.Module, args: Any) -> None:
        for each in stand_ins:
            holder = module.get_submodule(each.holder) if each.holder else module
            weight = holder._parameters[each.name]
            if weight is not None:
                made = each.make(weight)
                if made is not weight:
                    put_stand_in(holder, made, each.name)

    return before


def taking_off(stand_ins: Sequence[StandIn]) -> Callable[[nn.Module, Any, Any], None]:
    """Return a forward hook that restores the parameters."""

    def after(module: nn.Module, args: Any, output: Any) -> None:
        for each in stand_ins:
            take_stand_in_off(module.get_submodule(each.holder) if each.holder else module, each.name)

    return after
